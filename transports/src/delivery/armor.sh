# For a terminal, which passes only plain ASCII unchanged. A block of the spool is a line with its offset, its length
# and its packing; then base64; then a line that ends it. This supervisor is in the session's process group, so it ends
# with the session.
_is_connected=
follow() {
  _position=$1 _encode=
  open_spool "$1"
  follow_changes "$@"
}
find_encoders() {
  _encode=base64 _pack=
  if base64 -w 0 </dev/null >/dev/null 2>&1; then _encode="base64 -w 0"; fi
  if command -v gzip >/dev/null 2>&1; then _pack="gzip -1"; fi
}
copy() {
  [ -s "$_out" ] || return 0
  _size=$(wc -c <"$_out") || return
  _size=$((_size))
  [ "$_position" -ge "$_size" ] || [ -n "$_encode" ] || find_encoders
  while [ "$_position" -lt "$_size" ]; do
    _length=$((_size - _position))
    [ "$_length" -le 196608 ] || _length=196608
    # Compressing a small piece costs more than it saves.
    if [ -n "$_pack" ] && [ "$_length" -gt 1000 ]; then
      printf "%s D %s %s z\n" "$_mark" "$_position" "$_length" && dd "bs=$_length" count=1 <&5 2>/dev/null | $_pack | $_encode || exit
    else
      printf "%s D %s %s p\n" "$_mark" "$_position" "$_length" && dd "bs=$_length" count=1 <&5 2>/dev/null | $_encode || exit
    fi
    printf "%s E\n" "$_mark" || exit
    _position=$((_position + _length))
  done
}
