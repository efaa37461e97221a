# skd for Nix: pkgs.callPackage ./package.nix { }. Never built: nix-instantiate of Nix 2.8 has evaluated it with a
# stand-in for nixpkgs.
{
  lib,
  rustPlatform,
}:

rustPlatform.buildRustPackage {
  pname = "skd";
  version = (lib.importTOML ../../Cargo.toml).package.version;

  # Without what Cargo has built here.
  src = lib.cleanSourceWith {
    src = lib.cleanSource ../..;
    filter = path: _: baseNameOf path != "target";
  };
  cargoLock.lockFile = ../../Cargo.lock;

  # The Makefile builds each program with the features of its own crates, and installs manuals and completions.
  dontCargoBuild = true;
  dontCargoInstall = true;
  makeFlags = [ "PREFIX=${placeholder "out"}" ];

  # The tests need root, and programs of which Nix's sandbox has none.
  doCheck = false;

  meta = {
    description = "Socket daemon that runs a program for each connection";
    license = lib.licenses.mit;
    mainProgram = "skd";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
