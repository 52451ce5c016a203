# Runs as the session's only program: takes verbs, a line each, from the terminal, and starts supervisors.
# k marks its lines, V and W are the supervisor and the wrapper, g is the process that ends an abandoned session.
# Lines are written by processes without children: busybox drops what a SIGCHLD interrupts.
say() { (printf "~%s %s\n" "$k" "$*" >&3); }
# Of the whole session, so that nothing keeps the terminal open. Scripts have sessions of their own.
end() { kill -9 "-$$" || kill -9 "$$"; }
guard() {
  kill "$g"
  (sleep 180; end) </dev/null >/dev/null 3>&- 4>&- &
  g=$!
}
supervise() {
  /bin/sh -c "$V" fargate "$W" "$@" 3>&- 2>&4 4>&-
}
# The agent runs commands as root, wherever it was started and with whatever HOME it has.
[ -d "$HOME" ] || HOME=/root
[ -d "$HOME" ] || HOME=/
export HOME
cd "$HOME" || cd /
m=
for t in base64 cat dd head mkdir mv rm setsid sleep tail tr wc; do
  command -v "$t" >/dev/null 2>&1 || m="$m $t"
done
# What the shell itself has to say of its jobs would come into the output.
exec 3>&1 4>&2 2>/dev/null
verbs() {
  guard
  say "ready$m"
  # Not by read, for the same reason: busybox would forget a line's beginning. What head reads ahead is nothing yet.
  while l=$(head -n 1; echo .) && [ "$l" != . ]; do
    case $l in *"$k "*) l=${l%??} ;; *) continue ;; esac
    eval "set -- ${l#*"$k "}"
    guard
    case $1 in
    ping) say pong ;;
    quit) end ;;
    run)
      n=$2 z=$3
      shift 3
      if [ "$z" != 0 ]; then
        u=$3/upload.$n
        say go
        # Whatever happens to the file, all of the input is taken off the terminal.
        head -c "$z" | { { mkdir -p -m 700 "$3" && cat >"$u"; } 2>&4 || { rm -f "$u"; cat >/dev/null; }; }
        [ -f "$u" ] || {
          printf "%s notstarted\n" "$2" >&3
          say "end $n 1"
          say ok
          continue
        }
      fi
      if [ "$1" = start ]; then
        printf "%s\n" "n=$n z=$z; set -- ${l#*"$n $z"}"
      else
        (
          supervise "$@" </dev/null >&3
          say "end $n $?"
        ) &
      fi
      say ok
      ;;
    esac
  done
}
# What a shell starts with & could never receive SIGINT or SIGQUIT again: so scripts are started here, in the foreground.
verbs | while IFS= read -r l; do
  eval "$l"
  if [ "$z" = 0 ]; then
    supervise "$@" </dev/null >&3
  else
    u=$3/upload.$n
    {
      rm -f "$u"
      supervise "$@"
    } <"$u" >&3
  fi
  say "end $n $?"
done
