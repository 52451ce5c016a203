# Runs as the session's only program: takes verbs, a line each, from the terminal, and starts supervisors.
# k marks its lines, V and W are the supervisor and the wrapper, g is the process that ends an abandoned session.
say() { printf "~%s %s\n" "$k" "$*"; }
guard() {
  kill "$g"
  (sleep 180; kill -9 $$) </dev/null >/dev/null 4>&- &
  g=$!
}
# The agent runs commands as root, wherever it was started and with whatever HOME it has.
[ -d "$HOME" ] || HOME=/root
[ -d "$HOME" ] || HOME=/
export HOME
cd "$HOME" || cd /
m=
for t in base64 cat dd head mkdir mv rm sleep tail tr wc; do
  command -v "$t" >/dev/null 2>&1 || m="$m $t"
done
# What the shell itself has to say of its jobs would come into the output.
exec 4>&2 2>/dev/null
guard
say "ready$m"
while IFS= read -r l; do
  case $l in *"$k "*) ;; *) continue ;; esac
  eval "set -- ${l#*"$k "}"
  guard
  case $1 in
  ping) say pong ;;
  quit) exit 0 ;;
  run)
    n=$2 z=$3 u=/dev/null
    shift 3
    if [ "$z" != 0 ]; then
      u=$3/upload.$n
      say go
      # Whatever happens to the file, all of the input is taken off the terminal.
      head -c "$z" | { { mkdir -p -m 700 "$3" && cat >"$u"; } 2>&4 || { rm -f "$u"; cat >/dev/null; }; }
      [ -f "$u" ] || {
        printf "%s notstarted\n" "$2"
        say "end $n 1"
        say ok
        continue
      }
    fi
    (
      exec <"$u" 2>&4 4>&-
      [ "$u" = /dev/null ] || rm -f "$u"
      # Without setsid the script is of this session, whose end must not be its own.
      command -v setsid >/dev/null 2>&1 || trap "" HUP
      /bin/sh -c "$V" fargate "$W" "$@"
      say "end $n $?"
    ) &
    say ok
    ;;
  esac
done
