#!/bin/sh
# Installs the wheels beside this script and measures what benchmarks/accelerator.py measures; needs no network.
#     bundle/run.sh DIR [--minutes=12 --only=ITEM,...]
# DIR gets results.jsonl, table.md, cache.tar.gz (compiled programs), and report_1.tar.gz (logs, and CamVid's figures and
# report). The same command goes on where it stopped, and its report is report_2.tar.gz. On another machine it does so if
# results.jsonl and cache.tar.gz are copied to bundle/.
set -eu
bundle=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
work=$(mktemp -d)
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site" "$bundle"/wheels/*.whl
for earlier in "$out" "$bundle"; do
    [ -f "$earlier/cache.tar.gz" ] || continue
    tar -xzf "$earlier/cache.tar.gz" -C "$work" || {
        rm -rf "$work/cache"
        echo "Note: $earlier/cache.tar.gz is damaged, so programs are compiled again" >&2
    }
    break
done
[ -f "$out/results.jsonl" ] || [ ! -f "$bundle/results.jsonl" ] || cp "$bundle/results.jsonl" "$out"

call=1
while [ -e "$out/report_$call.tar.gz" ]; do call=$((call + 1)); done
keep() {
    cd "$work"
    mkdir -p logs camvid cache
    pack "report_$call" --exclude=checkpoints --exclude=tensorboard logs camvid
    pack cache cache
}
# Under its last name, an archive is whole.
pack() {
    name=$1
    shift
    tar -czf "$out/$name.part" "$@" && mv "$out/$name.part" "$out/$name.tar.gz"
}
trap keep EXIT
trap 'exit 143' TERM
cd "$bundle/.."
export PYTHONPATH="$work/site:$PWD" PYTHONUNBUFFERED=1
python3 benchmarks/accelerator.py --out="$out" --work="$work" --data_dir="$bundle/data" "$@"
