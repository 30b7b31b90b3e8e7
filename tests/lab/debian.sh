# Debian's packages for the lab, to be sourced. What is fetched is checked against the signatures of Debian's archive.

# Programs of this machine, with the packages that bring them: have PROGRAM PACKAGE...
have() {
  if command -v "$1" >/dev/null; then return; fi
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "make lab: $1 is missing; it is built as root in Debian 12, or with these packages installed: ${*:2}" >&2
    exit 1
  fi
  local install=(apt-get install -y -qq --no-install-recommends "${@:2}")
  "${install[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" >/dev/null; } || {
    echo "make lab: ${install[*]} failed: see whether Debian's mirror is in reach" >&2
    exit 1
  }
}

# Asks a suite's archive with a configuration of its own, so that the system's package lists stay as they are:
# archive FOLDER SUITE ARCHITECTURE. From then on apt-get means that archive.
archive() {
  local folder
  folder=$(realpath -m "$1")
  have apt-get apt
  mkdir -p "$folder"/{lists,cache}/partial "$folder/cache/archives/partial"
  touch "$folder/status"
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -f $keyring ] || { echo "make lab: $keyring is missing: apt-get install debian-archive-keyring" >&2; exit 1; }
  for kind in "deb [arch=$3" "deb-src ["; do
    echo "$kind signed-by=$keyring] http://deb.debian.org/debian $2 main"
  done >"$folder/sources.list"
  cat >"$folder/apt.conf" <<CONF
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$folder/lists";
Dir::State::status "$folder/status";
Dir::Cache "$folder/cache";
APT::Architecture "$3";
APT::Architectures {"$3";};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
CONF
  export APT_CONFIG=$folder/apt.conf
  apt-get update -qq || { echo "make lab: Debian's archive (deb.debian.org) cannot be reached" >&2; exit 1; }
}

# The newest package that a metapackage leads to: leads_to PACKAGE
leads_to() { apt-cache depends --important "$1" | sed -n 's/^ *Depends: *//p' | head -n 1; }

# Fetches packages and unpacks them below a folder, without installing them: unpack FOLDER PACKAGE...
unpack() {
  local debs
  debs=$(mktemp -d)
  (cd "$debs" && apt-get download -qq "${@:2}")
  mkdir -p "$1"
  for deb in "$debs"/*.deb; do dpkg -x "$deb" "$1"; done
  rm -r "$debs"
}
