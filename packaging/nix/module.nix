# skd as a service of NixOS. The keys of "settings" are those of a file of services, see SERVICE FILES in skd(8):
#
#     imports = [ ./packaging/nix/module.nix ];
#     services.skd = {
#       enable = true;
#       settings.service.motd = { tcp = 17; user = "nobody"; command = [ "/run/current-system/sw/bin/cat" "/etc/motd" ]; };
#     };
#
# Never run on NixOS: nix-instantiate of Nix 2.8 has evaluated it with a stand-in for nixpkgs.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.skd;
  toml = pkgs.formats.toml { };
  file = "/etc/skd/skd.toml";
in
{
  options.services.skd = {
    enable = lib.mkEnableOption "skd, a socket daemon";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package of skd.";
    };

    settings = lib.mkOption {
      type = toml.type;
      default = { };
      example = {
        daemon.verbose = 1;
        service.echo = {
          tcp = "127.0.0.1:7";
          user = "nobody";
          command = [ "/run/current-system/sw/bin/cat" ];
        };
      };
      description = "All services, and what concerns skd as a whole, by the keys that skd(8) describes under SERVICE FILES.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."skd/skd.toml".source = toml.generate "skd.toml" cfg.settings;

    # The user that skd-tls becomes. No other process should have it, and no file.
    users.users.skd-tls = {
      isSystemUser = true;
      group = "skd-tls";
      description = "skd, TLS";
    };
    users.groups.skd-tls = { };
    # Who may read the control socket, if control-read names this group: see docs/monitoring.md.
    users.groups.skd-status = { };

    systemd.services.skd = {
      description = "Socket daemon";
      documentation = [ "man:skd(8)" ];
      after = [ "network.target" ];
      wantedBy = [ "multi-user.target" ];
      # A change of the services reloads skd; connections go on. A new skd has another path, so it is a restart.
      reloadTriggers = [ config.environment.etc."skd/skd.toml".source ];

      # The settings of contrib/systemd/skd.service, which explains them.
      serviceConfig = {
        Type = "notify";
        WatchdogSec = "1min";
        ExecStart = "${cfg.package}/bin/skd --config ${file}";
        ExecReload = [
          "${cfg.package}/bin/skd --check --config ${file}"
          "${pkgs.coreutils}/bin/kill -HUP $MAINPID"
        ];
        KillMode = "mixed";
        TimeoutStopSec = 45;
        SuccessExitStatus = "3 4";
        Restart = "on-failure";
        RestartPreventExitStatus = "2 126 127";
        LimitNOFILE = 16384;
        TasksMax = 8192;
        RestrictRealtime = true;
        LockPersonality = true;
        SystemCallArchitectures = "native";
        ProtectClock = true;
        ProtectKernelModules = true;
        ProtectKernelLogs = true;
        ProtectKernelTunables = true;
        KeyringMode = "private";
      };
    };
  };
}
