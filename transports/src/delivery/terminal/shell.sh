# Runs as the session's only program: reads verbs from the terminal, a line each, and starts supervisors. The driver
# sets _mark, the prefix of its lines, and the programs _supervisor and _wrapper in front of it. _guard is the process
# that ends an abandoned session.
# Processes without children write lines, because busybox drops output that a SIGCHLD interrupts.
say() { (printf "~%s %s\n" "$_mark" "$*" >&3); }
# Kills the whole session, so that no process keeps the terminal open. Scripts have sessions of their own.
end_session() { kill -9 "-$$" || kill -9 "$$"; }
# A kept session renews it with every verb, so its sleep must not stay behind.
renew_guard() {
  kill "$_guard"
  (
    _sleep=
    trap 'kill $_sleep; exit' TERM
    sleep 180 &
    _sleep=$!
    wait
    end_session
  ) </dev/null >/dev/null 3>&- 4>&- &
  _guard=$!
}
supervise() {
  /bin/sh -c "$_supervisor" fargate "$_wrapper" "$@" 3>&- 2>&4 4>&-
}
# The agent runs commands as root, in its own directory and with its own HOME.
[ -d "$HOME" ] || HOME=/root
[ -d "$HOME" ] || HOME=/
export HOME
cd "$HOME" || cd /
_missing=
for _tool in base64 cat dd head mkdir mv rm setsid sleep tail tr wc; do
  command -v "$_tool" >/dev/null 2>&1 || _missing="$_missing $_tool"
done
# The shell's own messages about jobs would mix with the output.
exec 3>&1 4>&2 2>/dev/null
# Prints a verb's input, which has $_size bytes.
take_input() {
  if [ -n "$_input" ]; then
    printf %s "$_input" | base64 -d
  else
    say go
    head -c "$_size"
  fi
}
# run NUMBER SIZE VERB MARK DIRECTORY …: a supervisor, for SIZE bytes of input that follow.
# with NUMBER SIZE VERB MARK DIRECTORY … INPUT: the same. The input is in the line, in base64.
take_verbs() {
  renew_guard
  say "ready$_missing"
  # Uses head, because busybox's read would lose the beginning of an interrupted line. head cannot read ahead, as the
  # driver waits for each answer.
  while _line=$(head -n 1; echo .) && [ "$_line" != . ]; do
    case $_line in *"$_mark "*) _line=${_line%??} ;; *) continue ;; esac
    eval "set -- ${_line#*"$_mark "}"
    renew_guard
    case $1 in
    ping) say pong ;;
    quit) end_session ;;
    run | with)
      _number=$2 _size=$3 _input=
      if [ "$1" = with ]; then
        eval "_input=\${$#}"
        _line=${_line% *}
      fi
      shift 3
      if [ "$_size" != 0 ]; then
        _upload=$3/upload.$_number
        # Even if the file cannot be written, all of the input is read off the terminal.
        take_input | { { { [ -d "$3" ] || mkdir -p -m 700 "$3"; } && cat >"$_upload"; } 2>&4 || { rm -f "$_upload"; cat >/dev/null; }; }
        [ -f "$_upload" ] || {
          printf "%s notstarted\n" "$2" >&3
          say "end $_number 1"
          say ok
          continue
        }
      fi
      if [ "$1" = start ]; then
        printf "%s\n" "_number=$_number _size=$_size; set -- ${_line#*"$_number $_size"}"
      else
        (
          supervise "$@" </dev/null >&3
          say "end $_number $?"
        ) &
      fi
      say ok
      ;;
    esac
  done
}
# A background process of a shell ignores SIGINT and SIGQUIT for ever, so scripts start here, in the foreground.
take_verbs | while IFS= read -r _line; do
  eval "$_line"
  if [ "$_size" = 0 ]; then
    supervise "$@" </dev/null >&3
  else
    _upload=$3/upload.$_number
    {
      rm -f "$_upload"
      supervise "$@"
    } <"$_upload" >&3
  fi
  say "end $_number $?"
done
