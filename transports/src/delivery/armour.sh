# For a terminal: only plain ASCII passes one unharmed. A block of the spool is a line that says where it begins, how
# long it is and how it is packed; base64; a line that ends it.
follow() {
  q=$1 b=base64
  exec 5<"$r/out"
  # dd leaves the offset of the shared descriptor where it is to be read from.
  [ "$q" = 0 ] || dd bs=1 "skip=$q" count=0 <&5 >/dev/null 2>&1
  if base64 -w 0 </dev/null >/dev/null 2>&1; then b="base64 -w 0"; fi
  if command -v gzip >/dev/null 2>&1; then z="gzip -1"; else z=; fi
  while :; do
    o=0
    if ended || ! alive; then o=1; fi
    n=$(wc -c <"$r/out") || exit
    n=$((n))
    while [ "$q" -lt "$n" ]; do
      c=$((n - q))
      [ "$c" -le 196608 ] || c=196608
      # Small pieces are not worth another process.
      if [ -n "$z" ] && [ "$c" -gt 1000 ]; then
        printf "%s D %s %s z\n" "$k" "$q" "$c" && dd "bs=$c" count=1 <&5 2>/dev/null | $z | $b || exit
      else
        printf "%s D %s %s p\n" "$k" "$q" "$c" && dd "bs=$c" count=1 <&5 2>/dev/null | $b || exit
      fi
      printf "%s E\n" "$k" || exit
      q=$((q + c))
    done
    [ "$o" = 0 ] || exit 0
    nap
  done
}
