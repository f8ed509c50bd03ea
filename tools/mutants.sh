#!/usr/bin/env bash
# Breaks processor/ and hypervisor/ one expression at a time and asks the tests whether they notice. Exit 1 if more
# than 2 % of the mutants live.
#   tools/mutants.sh
set -euo pipefail
cd "$(dirname "$0")/.."

readonly work=$PWD/target/mutants allowed_percent=2

PATH=$PWD/target/tools/bin:$PATH
command -v cargo-mutants >/dev/null ||
    tools/quietly.sh 'installing cargo-mutants in target/tools' cargo install --locked --quiet --root target/tools cargo-mutants

rm -rf "$work"
mkdir -p "$work"
# The rooms that are broken and those below them, as a crate of their own: it compiles in a fraction of the time.
readonly rooms=$work/rooms
mkdir -p "$rooms/rust/src" "$rooms/python/ipivrs"
cp -r .cargo Cargo.lock "$rooms"
cp -r python/ipivrs/policies "$rooms/python/ipivrs"
sed '/^\[\[/,$d' Cargo.toml >"$rooms/Cargo.toml"
for room in arch memory processor hypervisor; do
    cp -r "rust/src/$room" "$rooms/rust/src"
    echo "pub mod $room;" >>"$rooms/rust/src/lib.rs"
done

# cargo-mutants exits with 2 where a mutant lives and with 3 where one ran out of time: both are counted below.
breaking() {
    local room=$1 other=$2 tree=$3
    shift 3
    cargo mutants --dir "$tree" --exclude "rust/src/$other/**" --no-shuffle --colors never -o "$work/$room" "$@" \
        >>"$work/$room.log" || (($? == 2 || $? == 3))
}
# Most mutants are seen by the tests of their own room, within a second; those that live meet all the others.
for pair in 'processor hypervisor' 'hypervisor processor'; do
    breaking $pair "$rooms" --gitignore false -- -- "${pair% *}::"
    cp "$work/${pair% *}/mutants.out/unviable.txt" "$work/${pair% *}.unviable"
    breaking $pair . --iterate
done

listed() { cat "$@" | wc -l; }
missed=$(listed "$work"/*/mutants.out/missed.txt)
timeout=$(listed "$work"/*/mutants.out/timeout.txt)
unviable=$(listed "$work"/*.unviable)
total=$(($(cargo mutants --list | wc -l) - unviable))
cat "$work"/*/mutants.out/missed.txt
printf 'caught %d, missed %d (%d.%02d %%), timeout %d; %d more do not compile\n' $((total - missed - timeout)) "$missed" \
    $((missed * 100 / total)) $((missed * 10000 / total % 100)) "$timeout" "$unviable"
((missed * 100 <= allowed_percent * total))
