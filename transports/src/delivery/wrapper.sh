r=$1
shift
trap : HUP INT TERM PIPE
IFS= read -r l <"/proc/$$/stat"
b() { b=${20} g=$3; }
b ${l##*) }
echo "$$ $b"
(
  case $1 in setsid) read -r g l </proc/self/stat ;; esac
  printf "%-80s\n" ". $$ $b $g ." 1<>"$r/pid"
  exec "$@" "$r/script" </dev/null >>"$r/out" 2>&1
)
c=$?
n=$(wc -c <"$r/out")
printf "%-80s\n" ". $c $((n)) ." 1<>"$r/exit"
