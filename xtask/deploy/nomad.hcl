# A bundle as a batch job of Nomad's raw_exec driver: nomad job run @NAME@.nomad.hcl
job "@NAME@" {
  type = "batch"

  group "@NAME@" {
    # A status other than 0 is the workload's own: no second try.
    restart {
      attempts = 0
      mode     = "fail"
    }

    task "@NAME@" {
      driver = "raw_exec"

      config {
        command = "@PATH@"
        args    = []
      }

      kill_signal  = "SIGTERM"
      kill_timeout = "15s"

      resources {
        cpu    = 1000
        memory = 192
      }
    }
  }
}
