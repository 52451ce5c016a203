# Runs as the session's only program: takes verbs, a line each, from the terminal, and starts supervisors.
# Before it come _mark, which its lines begin with, _supervisor and _wrapper, two programs. _guard is the process that ends an
# abandoned session.
# Lines are written by processes without children: busybox drops what a SIGCHLD interrupts.
say() { (printf "~%s %s\n" "$_mark" "$*" >&3); }
# Of the whole session, so that nothing keeps the terminal open. Scripts have sessions of their own.
end_session() { kill -9 "-$$" || kill -9 "$$"; }
renew_guard() {
  kill "$_guard"
  (sleep 180; end_session) </dev/null >/dev/null 3>&- 4>&- &
  _guard=$!
}
supervise() {
  /bin/sh -c "$_supervisor" fargate "$_wrapper" "$@" 3>&- 2>&4 4>&-
}
# The agent runs commands as root, wherever it was started and with whatever HOME it has.
[ -d "$HOME" ] || HOME=/root
[ -d "$HOME" ] || HOME=/
export HOME
cd "$HOME" || cd /
_missing=
for _tool in base64 cat dd head mkdir mv rm setsid sleep tail tr wc; do
  command -v "$_tool" >/dev/null 2>&1 || _missing="$_missing $_tool"
done
# What the shell itself has to say of its jobs would come into the output.
exec 3>&1 4>&2 2>/dev/null
# run NUMBER SIZE VERB MARK DIRECTORY …: a supervisor, for SIZE bytes of input that follow.
take_verbs() {
  renew_guard
  say "ready$_missing"
  # Not by read, for the same reason: busybox would forget a line's beginning. What head reads ahead is nothing yet.
  while _line=$(head -n 1; echo .) && [ "$_line" != . ]; do
    case $_line in *"$_mark "*) _line=${_line%??} ;; *) continue ;; esac
    eval "set -- ${_line#*"$_mark "}"
    renew_guard
    case $1 in
    ping) say pong ;;
    quit) end_session ;;
    run)
      _number=$2 _size=$3
      shift 3
      if [ "$_size" != 0 ]; then
        _upload=$3/upload.$_number
        say go
        # Whatever happens to the file, all of the input is taken off the terminal.
        head -c "$_size" | { { mkdir -p -m 700 "$3" && cat >"$_upload"; } 2>&4 || { rm -f "$_upload"; cat >/dev/null; }; }
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
# What a shell starts with & could never receive SIGINT or SIGQUIT again: so scripts are started here, in the foreground.
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
