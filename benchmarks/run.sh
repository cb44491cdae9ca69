#!/bin/sh
# Installs the wheels beside this script and measures what benchmarks/accelerator.py measures; needs no network.
#     bundle/run.sh DIR [--minutes=12 --only=ITEM,...]
# DIR gets results.jsonl, table.md, report.tar.gz (logs, and CamVid's figures and report) and cache.tar.gz (compiled
# programs). The same command goes on where it stopped. On another machine it does so if results.jsonl and cache.tar.gz
# are copied to bundle/.
set -eu
bundle=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
work=$(mktemp -d)
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site" "$bundle"/wheels/*.whl
for earlier in "$out" "$bundle"; do
    [ ! -f "$earlier/cache.tar.gz" ] || { tar -xzf "$earlier/cache.tar.gz" -C "$work"; break; }
done
[ -f "$out/results.jsonl" ] || [ ! -f "$bundle/results.jsonl" ] || cp "$bundle/results.jsonl" "$out"

keep() {
    cd "$work"
    tar -czf "$out/report.tar.gz" --exclude=checkpoints --exclude=tensorboard --ignore-failed-read logs camvid || true
    tar -czf "$out/cache.tar.gz" cache || true
}
trap keep EXIT
trap 'exit 143' TERM
cd "$bundle/.."
export PYTHONPATH="$work/site:$PWD" PYTHONUNBUFFERED=1
python3 benchmarks/accelerator.py --out="$out" --work="$work" --data_dir="$bundle/data" "$@"
