# Evaluates package.nix and module.nix with a stand-in for nixpkgs, since nixpkgs itself is large:
#
#     nix-instantiate --eval --strict --json packaging/nix/check.nix
#
# It shows that names fit together, and what the unit becomes. It builds nothing.
let
  lib = {
    cleanSource = path: path;
    importTOML = path: builtins.fromTOML (builtins.readFile path);
    licenses.mit = "MIT";
    literalExpression = text: text;
    mkEnableOption = description: { inherit description; };
    mkIf = condition: content: if condition then content else { };
    mkOption = option: option;
    types.package = "package";
  };
  pkgs = {
    callPackage =
      path: others:
      import path {
        inherit lib;
        rustPlatform.buildRustPackage = arguments: arguments // { outPath = "/nix/store/${arguments.pname}"; };
      };
    coreutils = "/nix/store/coreutils";
    formats.toml = { }: {
      type = "TOML";
      generate = name: value: {
        inherit name value;
        outPath = "/nix/store/${name}";
      };
    };
  };
  example = (module { }).options.services.skd.settings.example;
  module =
    settings:
    import ./module.nix {
      inherit lib pkgs;
      config = {
        services.skd = {
          inherit settings;
          enable = true;
          package = pkgs.callPackage ./package.nix { };
        };
        environment.etc."skd/skd.toml".source = "/nix/store/skd.toml";
      };
    };
  package = pkgs.callPackage ./package.nix { };
  result = (module example).config;
in
{
  inherit (package) pname version makeFlags;
  lock = builtins.pathExists package.cargoLock.lockFile;
  settings = result.environment.etc."skd/skd.toml".source.value;
  unit = result.systemd.services.skd.serviceConfig;
  users = builtins.attrNames result.users.users;
}
