#!/bin/sh
# Look up known weaknesses of the packages installed in .venv. Exit code 0: none known,
# 1: some known, 2: not done. Called by `make audit`.
#
# A package index that answers without a list of weaknesses looks like one that knows none.
# So an old release with published weaknesses is asked about first: if that one is called
# clean, the answer means nothing. (CVE-2018-18074 and others in requests 2.19.0.)
# OSV_URL names another server that speaks OSV's protocol, such as one inside a clinic's network.
set -u
python=.venv/bin/python
tool=.venv/audit/bin/python # pip-audit lives apart: it would change versions of the book's packages
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

not_done() {
  echo "make audit: NOT DONE: $1" >&2
  exit 2
}

"$python" -m venv .venv/audit &&
  "$tool" -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1 ||
  not_done "pip-audit could not be installed"

site=$("$python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
for service in pypi osv; do
  echo "requests==2.19.0" > "$work/known.txt"
  set -- --vulnerability-service "$service" --progress-spinner off
  [ "$service" = pypi ] || set -- "$@" --osv-url "${OSV_URL:-https://api.osv.dev/v1/query}"
  "$tool" -m pip_audit --requirement "$work/known.txt" --no-deps --disable-pip "$@" \
    > "$work/known.log" 2>&1
  if grep -q "Found .* known vulnerabilit" "$work/known.log"; then
    "$tool" -m pip_audit --path "$site" --skip-editable "$@" --format json \
      --output "$work/report.json"
    code=$?
    # The report is written only when the service answered for every package.
    [ -s "$work/report.json" ] || not_done "the service $service stopped answering"
    cp "$work/report.json" audit.json
    [ "$code" -eq 0 ] || { echo "make audit: FAILED: see audit.json" >&2; exit 1; }
    "$python" -c "import json
found = json.load(open('audit.json'))['dependencies']
print('not known to the service:', *[d['name'] for d in found if 'skip_reason' in d] or ['none'])"
    echo "make audit: no known weakness in the others (service: $service; see audit.json)"
    exit 0
  fi
  echo "$service: no answer, or one that calls an old release with known weaknesses clean" >&2
done
not_done "no service that knows weaknesses can be reached from here"
