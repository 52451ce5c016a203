# The process that becomes the script. $2 is setsid if this is the leader of a group.
IFS= read -r _run && IFS= read -r _interpreter && IFS= read -r _argument || exit
_group=$$
if [ -z "$2" ]; then
  IFS= read -r _stat <"/proc/$$/stat"
  read_group() { _group=$3; }
  read_group ${_stat##*) }
fi
printf "%-80s\n" ". $1 $_group ." 1<>"$_run/pid"
exec "$_interpreter" ${_argument:+"$_argument"} "$_run/script" </dev/null >>"$_run/out" 2>&1
