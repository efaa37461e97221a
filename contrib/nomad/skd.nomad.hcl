# skd as a job of Nomad, by the docker driver: see docs/containers.md.

job "skd" {
  type = "service"

  group "skd" {
    count = 3

    network {
      port "app" {
        to = 8080
      }
      port "status" {
        to = 9117
      }
    }

    service {
      name     = "skd"
      port     = "app"
      provider = "nomad"

      # About the service: balancers leave out a skd that ends.
      check {
        type     = "http"
        port     = "status"
        path     = "/healthz"
        interval = "5s"
        timeout  = "6s"
      }
    }

    # The service is taken out of the catalogue this long before TERM, so that balancers know first.
    shutdown_delay = "10s"

    task "skd" {
      driver = "docker"

      config {
        image           = "skd:2.0.0"
        args            = ["--config", "/etc/skd"]
        ports           = ["app", "status"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        # Only this folder: all users can write to the directories around it, and skd reads no file there.
        volumes = ["local/skd:/etc/skd:ro"]
        mount {
          type   = "tmpfs"
          target = "/run/skd"
          tmpfs_options {
            size = 1048576
            mode = 1023 # 01777
          }
        }
      }

      # TERM drains for 30 s. Then handlers get TERM, 5 s later KILL, and 5 s later skd ends without them. Clients of
      # Nomad allow 30 s by default: set max_kill_timeout in their configuration to 45 s or more.
      kill_signal  = "SIGTERM"
      kill_timeout = "45s"

      # skd reads changed files without ending a connection.
      template {
        destination   = "local/skd/skd.toml"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<END
[daemon]
verbose = 1
# Handlers have the user of skd, who may act by it: see "Control" in docs/containers.md.
control = "/run/skd/control.sock"

[service.status]
tcp = 9117
max-clients = 20
timeout = "1m"
command = ["/usr/bin/skdctl", "--socket", "/run/skd/control.sock", "http"]

[service.app]
tcp = 8080
max-clients = 100
max-per-source = 10
drain = "30s"
kill-after = "5s"
command = ["/usr/bin/skdctl", "--socket", "/run/skd/control.sock", "list"]
END
      }

      resources {
        cpu    = 100
        memory = 256
      }
    }
  }
}
