# make                builds skd, skd-forward, skd-tls and skdctl
# make install        installs them, their manuals and completions; PREFIX, BINDIR and DESTDIR are honoured
# make uninstall      removes them again
# make check          installs what the tests need, and runs all tests
# make tests          installs what the tests need, and builds them
# make documents      writes the manual and the completions anew, after a change of the options
# make deb            makes a package for Debian; rpm, tarball and image are others: see packaging/README.md
# make clean          removes what was built

PREFIX = /usr/local
BINDIR = $(PREFIX)/bin
DATADIR = $(PREFIX)/share
MANDIR = $(DATADIR)/man
BASHDIR = $(DATADIR)/bash-completion/completions
ZSHDIR = $(DATADIR)/zsh/site-functions
FISHDIR = $(DATADIR)/fish/vendor_completions.d

CARGO = cargo
INSTALL = install
CARGO_TARGET_DIR ?= target
BUILT = $(CARGO_TARGET_DIR)/release/skd
BUILT_FORWARD = $(CARGO_TARGET_DIR)/release/skd-forward
BUILT_TLS = $(CARGO_TARGET_DIR)/release/skd-tls
BUILT_CTL = $(CARGO_TARGET_DIR)/release/skdctl
SKD = $(BUILT)
FORWARD = $(BUILT_FORWARD)
TLS = $(BUILT_TLS)
CTL = $(BUILT_CTL)
BUILD = $(CARGO) build --release --locked --package skd --package skd-forward
# Apart: built together, skd would share the features of crates that these need.
BUILD_TLS = $(CARGO) build --release --locked --package skd-tls
BUILD_CTL = $(CARGO) build --release --locked --package skdctl

.PHONY: all install uninstall check tests documents deb rpm tarball image clean

# Cargo knows what has to be built anew.
all:
	$(BUILD)
	$(BUILD_TLS)
	$(BUILD_CTL)

# Only if something has changed: after "make", "sudo make install" needn't find cargo.
# One command builds both.
$(BUILT) $(BUILT_FORWARD) &: Cargo.toml Cargo.lock build.rs forward/Cargo.toml $(shell find src forward/src control/src tls-protocol/src -name '*.rs')
	$(BUILD)

$(BUILT_TLS): Cargo.toml Cargo.lock build.rs tls/Cargo.toml $(shell find src tls/src tls-protocol/src control/src -name '*.rs')
	$(BUILD_TLS)

$(BUILT_CTL): Cargo.toml Cargo.lock ctl/Cargo.toml $(shell find ctl/src control/src -name '*.rs') completions/skdctl.bash completions/_skdctl completions/skdctl.fish
	$(BUILD_CTL)

install: $(SKD) $(FORWARD) $(TLS) $(CTL)
	$(INSTALL) -D -m 755 $(SKD) $(DESTDIR)$(BINDIR)/skd
	$(INSTALL) -D -m 755 $(FORWARD) $(DESTDIR)$(BINDIR)/skd-forward
	$(INSTALL) -D -m 755 $(TLS) $(DESTDIR)$(BINDIR)/skd-tls
	$(INSTALL) -D -m 755 $(CTL) $(DESTDIR)$(BINDIR)/skdctl
	$(INSTALL) -D -m 644 man/skd-forward.1 $(DESTDIR)$(MANDIR)/man1/skd-forward.1
	$(INSTALL) -D -m 644 man/skd-tls.1 $(DESTDIR)$(MANDIR)/man1/skd-tls.1
	$(INSTALL) -D -m 644 man/skdctl.1 $(DESTDIR)$(MANDIR)/man1/skdctl.1
	$(INSTALL) -D -m 644 man/skd.8 $(DESTDIR)$(MANDIR)/man8/skd.8
	$(INSTALL) -D -m 644 completions/skd.bash $(DESTDIR)$(BASHDIR)/skd
	$(INSTALL) -D -m 644 completions/_skd $(DESTDIR)$(ZSHDIR)/_skd
	$(INSTALL) -D -m 644 completions/skd.fish $(DESTDIR)$(FISHDIR)/skd.fish
	$(INSTALL) -D -m 644 completions/skdctl.bash $(DESTDIR)$(BASHDIR)/skdctl
	$(INSTALL) -D -m 644 completions/_skdctl $(DESTDIR)$(ZSHDIR)/_skdctl
	$(INSTALL) -D -m 644 completions/skdctl.fish $(DESTDIR)$(FISHDIR)/skdctl.fish

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/skd
	rm -f $(DESTDIR)$(BINDIR)/skd-forward
	rm -f $(DESTDIR)$(BINDIR)/skd-tls
	rm -f $(DESTDIR)$(BINDIR)/skdctl
	rm -f $(DESTDIR)$(MANDIR)/man1/skd-forward.1
	rm -f $(DESTDIR)$(MANDIR)/man1/skd-tls.1
	rm -f $(DESTDIR)$(MANDIR)/man1/skdctl.1
	rm -f $(DESTDIR)$(MANDIR)/man8/skd.8
	rm -f $(DESTDIR)$(BASHDIR)/skd
	rm -f $(DESTDIR)$(ZSHDIR)/_skd
	rm -f $(DESTDIR)$(FISHDIR)/skd.fish
	rm -f $(DESTDIR)$(BASHDIR)/skdctl
	rm -f $(DESTDIR)$(ZSHDIR)/_skdctl
	rm -f $(DESTDIR)$(FISHDIR)/skdctl.fish

# Tests wait more than they compute: two more at a time than there are cores.
check: export RUST_TEST_THREADS ?= $(shell expr $$(nproc) + 2)

# The tests of each package are apart: built together, they would share features of crates that skd alone
# is built without.
TESTED = skd-bench skd-forward skd-tls skd-tls-protocol skdctl skd

check: tests
	set -e; for package in $(TESTED); do $(CARGO) test --locked --package $$package; done

tests:
	.ci/packages
	set -e; for package in $(TESTED); do $(CARGO) test --locked --package $$package --no-run; done

documents:
	$(CARGO) run --locked --example documents
	$(CARGO) run --locked --package skdctl --example ctl-documents

deb rpm tarball image:
	CARGO_TARGET_DIR=$(abspath $(CARGO_TARGET_DIR)) $(MAKE) --directory packaging $@

clean:
	$(CARGO) clean
