"""small_main.py, which writes the addresses that it connects to:  python audited_program.py FILE FLAGS"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    addresses = open(sys.argv.pop(1), "w", buffering=1)  # noqa: SIM115

    def note(event, arguments):
        if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
            address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
            addresses.write(f"{address[0] if isinstance(address, tuple) else address}\n")

    sys.addaudithook(note)
    program = Path(__file__).parents[1] / "small_main.py"
    sys.path.insert(0, str(program.parent))
    sys.argv[0] = str(program)
    runpy.run_path(str(program), run_name="__main__")
