#!/bin/sh
# What a release pipeline meets, one after the other, each with the exit code that it must get.
#
#   rehearse.sh [FOLDER [options of mpo bench]]
#
# It runs as under GitHub Actions, whose files are in each situation's folder too. The models are
# made here; the noise is real: a process that never rests for every core that it may use.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-rehearsal}
[ $# -gt 0 ] && shift
wrong=0 hogs=
rest() { for hog in $hogs; do kill "$hog" 2>/dev/null; done; hogs=; }
trap rest EXIT INT TERM

# situation NAME CODE CANDIDATE BASELINE [options]: run the gate, tell what came of it.
situation() {
  name=$1 want=$2 candidate=$3 baseline=$4
  shift 4
  mkdir -p "$out/$name"
  GITHUB_ACTIONS=true GITHUB_STEP_SUMMARY="$out/$name/summary.md" GITHUB_OUTPUT="$out/$name/output" \
    sh "$here/gate.sh" "$candidate" "$baseline" "$out/$name" "$@" >"$out/$name/log" 2>&1
  code=$?
  if [ "$code" -eq "$want" ]; then verdict=as-expected; else verdict=WRONG; fi
  printf '%-10s exit %s, wanted %s  %s\n' "$name" "$code" "$want" "$verdict"
  [ "$code" -eq "$want" ]
}

mkdir -p "$out"
python3 "$here/situations.py" models "$out" || exit 1
old=$out/released.onnx
situation good 0 "$out/retrained.onnx" "$old" "$@" || wrong=1
situation regression 4 "$out/larger.onnx" "$old" "$@" || wrong=1
situation broken 1 "$out/broken.onnx" "$old" "$@" || wrong=1
situation halved 2 "$out/halved.onnx" "$old" "$@" || wrong=1

mpo bench "$old" --threads 1 --json "$out/here.json" -q "$@" || wrong=1
python3 "$here/situations.py" moved "$out/here.json" "$out/elsewhere.json" || wrong=1
situation elsewhere 6 "$out/retrained.onnx" "$out/elsewhere.json" "$@" || wrong=1

cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
while [ "$cores" -gt 0 ]; do
  (while :; do :; done) &
  hogs="$hogs $!" cores=$((cores - 1))
done
# Wall-clock times of each model alone, at a limit far below their noise. One in a hundred times
# chance decides all the same; twice in a row it hardly does.
RULES='latency.p90>0.5%'
export RULES
situation noisy 5 "$out/retrained.onnx" "$old" "$@" --pairs 8 ||
  situation noisy 5 "$out/retrained.onnx" "$old" "$@" --pairs 8 || wrong=1
exit $wrong
