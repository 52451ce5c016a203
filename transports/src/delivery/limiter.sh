# Where one run follows another in the same shell: as in supervisor.sh, but the next run does not wait for a nap.
# SIGTERM ends it, and its nap.
limit_changes() {
  read -r _self _rest </proc/self/stat
  trap "kill \$_nap; wait; exit" TERM
  echo "limiter $_self"
  while echo changed && nap_lightly; do
    case $(dd bs=65536 count=1 2>&1 >/dev/null) in 0+0*) break ;; esac
  done
  while echo changed && nap_lightly; do :; done
} 2>/dev/null
nap_lightly() {
  sleep 0.05 &
  _nap=$!
  wait "$_nap" || nap
  _nap=
}
handle_changes() {
  while read -r _event _process; do
    case $_event in
    limiter) _limiter=$_process ;;
    changed) copy ;;
    departed) break ;;
    ended)
      copy
      break
      ;;
    esac
  done
  kill "$_limiter" 2>/dev/null
}
