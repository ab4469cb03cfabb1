# Leaves $1/kube-apiserver, built from Debian's source package "kubernetes" (1.20, vendored), with the Go
# at $2. Needs apt, the key ring of Debian's archive, and about 2 GB while it runs. Nothing under /etc/apt
# is changed.
set -euo pipefail
out=$1 build=$1/build src=$1/build/go/src/k8s.io/kubernetes
rm -rf "$build"
mkdir -p "$build"/{parts,lists/partial,archives/partial,download,tmp} "$src"

# The machine's own mirror.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk '$2 == "bookworm" { print $1; exit }')
[ -n "$mirror" ] || { echo "this machine has no mirror of Debian 12 (bookworm)" >&2; exit 1; }
cat >"$build/parts/src.sources" <<SOURCES
Types: deb-src
URIs: $mirror
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
apt=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$build/parts"
     -o "Dir::State::lists=$build/lists" -o "Dir::Cache=$build" -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$build/download" && "${apt[@]}" source --download-only kubernetes)
tar xzf "$build"/download/kubernetes_*.orig.tar.gz --strip-components=1 -C "$src"

cd "$src"
# The vendored tree only builds in GOPATH mode.
export GO111MODULE=off GOFLAGS= GOPATH=$build/go GOCACHE=$build/gocache GOTMPDIR=$build/tmp CGO_ENABLED=0
export GOROOT=$2 PATH=$2/bin:$PATH
k8s=k8s.io/kubernetes

# The one generated package that the source package leaves out.
go build -o "$build/openapi-gen" $k8s/vendor/k8s.io/kube-openapi/cmd/openapi-gen
dirs=$( { grep -rl --include=*.go '+k8s:openapi-gen=' pkg cmd plugin || true
          cd vendor && grep -Rl --include=*.go '+k8s:openapi-gen=' k8s.io/*/ | sed 's#^#vendor/#'; } |
        grep -vE '^vendor/k8s.io/(code-generator|sample-apiserver|kube-openapi|gengo)|_test.go|/openapi/' |
        xargs -n1 dirname | sort -u | sed "s#^#$k8s/#" | paste -sd,)
"$build/openapi-gen" -i "$dirs" -p $k8s/pkg/generated/openapi -O zz_generated.openapi \
  -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$build/violations"

version=k8s.io/component-base/version
go build -trimpath -ldflags "-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20" \
  -o "$build/kube-apiserver" $k8s/cmd/kube-apiserver
mv "$build/kube-apiserver" "$out/kube-apiserver"
chmod -R u+w "$build"
rm -rf "$build"
