r=$1 u=$2
shift 2
trap : HUP INT TERM PIPE
# Here, where the end of the session that brought the script does not reach: whoever makes the directory starts it.
if ! mkdir "$r" 2>/dev/null; then
  rm -f "$u"
  if [ -d "$r" ]; then echo taken; else mkdir "$r"; fi
  exit
fi
# Room for what must be written even if the script fills the disk.
printf "%80s\n" "" >"$r/pid" && printf "%80s\n" "" >"$r/exit" && printf "" >"$r/out" && mv "$u" "$r/script" || {
  rm -rf "$r" "$u"
  exit
}
echo made
exec 2>"$r/err"
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
