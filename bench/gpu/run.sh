#!/usr/bin/env bash
# Everything on a bare CUDA machine (NVIDIA driver, no network, no node_modules), in stages that each fit ten minutes.
#
#   bench/gpu/run.sh <stage> [folder of reference numbers]
#
# Stages: ops (every op against its reference), golden, memcheck, racecheck (compute-sanitizer on the tests of ops), all.
# Before, where there is a network: npm run build:cuda && node scripts/gpu-bundle.mjs; carry build/Release, dist-gpu and a Node
# binary along. NODE names the binary (default: node), ADDON the folder of duet.node and duet-cuda.so, OUT where logs go.
set -uo pipefail
cd "$(dirname "$0")/../.."
stage=${1:-all}
reference=${2:-../shared/golden}
node=${NODE:-node}
out=${OUT:-dist-gpu/out}
export DUET_ADDON=${ADDON:-build/Release}/duet.node
export DUET_TEST_DEVICE=cuda
mkdir -p "$out"
failed=0

run() { # name, command ...
  local name=$1 begun=$SECONDS
  shift
  timeout 590 "$@" >"$out/$name.log" 2>&1
  local status=$?
  [ $status -eq 0 ] || failed=1
  printf '%-10s %-6s %4d s  %s\n' "$name" "$([ $status -eq 0 ] && echo ok || echo "FAIL $status")" $((SECONDS - begun)) \
    "$(tail -1 "$out/$name.log")"
  grep -A1 -h '^  FAIL\|^FAIL' "$out/$name.log" | head -40
}

"$node" dist-gpu/bundle/duet.mjs inspect | tee "$out/inspect.txt"
wanted() { [ "$stage" = all ] || [ "$stage" = "$1" ]; }
wanted ops && run ops "$node" dist-gpu/bundle/ops.mjs
wanted golden && run golden "$node" dist-gpu/bundle/duet.mjs golden "$reference" --device cuda
for tool in memcheck racecheck; do
  wanted $tool && run $tool compute-sanitizer --tool $tool --target-processes all --error-exitcode 9 \
    "$node" dist-gpu/bundle/ops.mjs
done
exit $failed
