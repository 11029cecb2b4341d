# Sourced by the scripts that install a pinned npm package. Needs npm, tar, and openssl, or sha512sum and xxd.

# Installs MEMBER of a package's archive as DESTINATION, whose last line on stdout it is. PIN is a file of two
# lines, version and digest; TGZ is used instead of a download. Running it again, or twice at once, is harmless.
npm_package() ( # NAME PIN MEMBER DESTINATION [TGZ]
  name=$1 pin=$2 member=$3 destination=$4 tgz=${5:-}
  { read -r version; read -r integrity; } <"$pin"
  if [ -e "$destination" ]; then
    say "$destination is there"
    echo "$destination"
    exit
  fi

  parent=$(dirname "$destination")
  mkdir -p "$parent"
  # Everything happens in a directory of our own and ends in one rename, so that two of us never see each
  # other's half-written file.
  work=$(mktemp -d "$parent/setup.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' HUP INT TERM

  if [ -z "$tgz" ]; then
    command -v npm >/dev/null || fail "npm is missing; install it (Debian: apt-get install npm) and run this again"
    say "downloading $name@$version with npm"
    (cd "$work" && npm pack --silent "$name@$version" >/dev/null) || fail "npm pack $name@$version failed"
    tgz=$(echo "$work"/*.tgz)
  fi
  if command -v openssl >/dev/null; then
    digest=$(openssl dgst -sha512 -binary "$tgz" | base64 | tr -d '\n')
  else
    digest=$(sha512sum "$tgz" | cut -d' ' -f1 | xxd -r -p | base64 | tr -d '\n')
  fi
  [ "sha512-$digest" = "$integrity" ] || fail "$tgz has digest sha512-$digest, pinned is $integrity"

  tar -xzf "$tgz" -C "$work" "$member"
  # Somebody may have been faster: then this is theirs, and as good.
  mv -T "$work/$member" "$destination" 2>/dev/null || [ -e "$destination" ] || fail "$destination cannot be made"
  say "installed $destination"
  echo "$destination"
)
