# Sourced: the command uv, which resolves and installs packages, in a virtualenv of its own; made when first asked for.
tools=.cache/uv-0.13.9
if [[ ! -x $tools/bin/uv ]]; then
  python3 -m venv "$tools"
  "$tools/bin/pip" install -q --disable-pip-version-check uv==0.13.9
fi
uv() { "$tools/bin/uv" "$@"; }
