"""What is said of a compiler that a signal ended, by logs as libtpu and glibc write them; needs no libtpu."""

import importlib.util
import subprocess
import sys

import pytest

from configs import default
from cpnet_jax.errors import UserError
from cpnet_jax.plan import topologies
from cpnet_jax.plan.compiler import Compiler

CHECK = """I1127 09:14:02.100000    4711 tpu_compiler.cc:812] Running passes
F1127 09:14:03.251437    4711 layout_assignment.cc:1412] Check failed: shape.rank() == 4 (3 vs. 4)
*** Check failure stack trace: ***
    @     0x7f1c2d3e4f50  absl::LogMessageFatal::~LogMessageFatal()
    @     0x7f1c2d3e4f60  (unknown)
Fatal Python error: Aborted

Current thread 0x00007f1c2d3e4740 (most recent call first):
  File "compiler.py", line 361 in backend_compile_and_load
"""
NO_MEMORY = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"


@pytest.fixture
def compile_with(monkeypatch):
    """Compiles in a process that writes a log and gets a signal."""
    popen = subprocess.Popen

    def run(log, signal):
        def start(command, **options):
            end = f"import os, sys; sys.stderr.write({log!r}); sys.stderr.flush(); os.kill(os.getpid(), {signal})"
            return popen([sys.executable, "-S", "-c", end], **options)

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
        monkeypatch.setattr(subprocess, "Popen", start)
        Compiler(default.get_config(), topologies.parse("v5e:4x4"), None).compile(2)

    return run


def test_an_abort_is_reported_with_what_the_compiler_said(compile_with):
    with pytest.raises(UserError) as error:
        compile_with(CHECK, 6)
    (line,) = str(error.value).splitlines()
    assert line.startswith("signal 6 ended the compiler, which said 'F1127")
    assert "Check failed: shape.rank() == 4 (3 vs. 4)'" in line and "pip install -U libtpu" in line
    assert "memory" not in line


def test_the_last_line_is_reported_if_none_is_fatal(compile_with):
    with pytest.raises(UserError, match="signal 11 ended the compiler, which said 'Running passes':"):
        compile_with("Starting\nRunning passes\n    @     0x7f1c2d3e4f60  (unknown)\n", 11)
    with pytest.raises(UserError, match="signal 11 ended the compiler, which said nothing:"):
        compile_with("", 11)


@pytest.mark.parametrize(("log", "signal"), [(CHECK, 9), (NO_MEMORY, 6)])
def test_a_kill_and_a_failed_allocation_are_want_of_memory(compile_with, log, signal):
    with pytest.raises(UserError, match="probably because memory ran out"):
        compile_with(log, signal)
