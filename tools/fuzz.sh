#!/usr/bin/env bash
# Runs every fuzz target for a number of seconds and prints a line for each. Exit 1 if one found a crash.
#   tools/fuzz.sh [SECONDS_PER_TARGET]
set -euo pipefail
cd "$(dirname "$0")/.."

readonly limit=${1:-60} work=$PWD/target/fuzz
targets=(perf_data text policy scenario guest_actions)

PATH=$PWD/target/tools/bin:$PATH
command -v cargo-fuzz >/dev/null ||
    tools/quietly.sh 'installing cargo-fuzz in target/tools' cargo install --locked --quiet --root target/tools cargo-fuzz

# Without a sanitizer a stable compiler does: the crate is safe Rust, and what is looked for is panics.
readonly how=(--sanitizer none --target-dir "$work/build")
tools/quietly.sh 'building the fuzz targets' cargo fuzz build "${how[@]}"

# Seeds are what people feed ipivrs: recordings cut to where libFuzzer likes them, policies, scenarios.
for target in "${targets[@]}"; do mkdir -p "$work"/{corpus,seeds,crashes}/"$target"; done
for file in examples/*.perf.data; do head -c 65536 "$file" >"$work/seeds/perf_data/${file##*/}"; done
for file in examples/*.txt; do head -c 4096 "$file" >"$work/seeds/text/${file##*/}"; done
cp python/ipivrs/policies/*.policy "$work/seeds/policy"
cp python/ipivrs/scenarios/*.toml "$work/seeds/scenario"

crashed=0
printf '%-14s %12s %10s %8s\n' target executions 'a second' crashes
for target in "${targets[@]}"; do
    log=$work/$target.log
    regressions=fuzz/regressions/$target
    cargo fuzz run "${how[@]}" "$target" "$work/corpus/$target" "$work/seeds/$target" $([[ -d $regressions ]] && echo "$regressions") -- \
        -max_total_time="$limit" -max_len=65536 -rss_limit_mb=4096 -timeout=10 -print_final_stats=1 \
        -artifact_prefix="$work/crashes/$target/" >"$log" 2>&1 && crashes=0 || crashes=1
    stat() { sed -n "s/^stat::$1: *//p" "$log"; }
    printf '%-14s %12s %10s %8s\n' "$target" "$(stat number_of_executed_units)" "$(stat average_exec_per_sec)" "$crashes"
    if ((crashes)); then
        crashed=1
        grep -E 'panicked at|assertion|left:|right:|ERROR:|error:|Test unit written' "$log" | head -8 >&2 || true
        echo "the whole report: $log" >&2
    fi
done
exit $crashed
