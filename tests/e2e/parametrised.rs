//! One suite, by every transport and on every cluster.

/// Tests on the local cluster, by each transport: a module for each, with a test by SSH and one by
/// ECS Exec.
macro_rules! by_every_transport {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            $(#[$attribute])*
            fn local() {
                super::$name(&crate::cluster::Cluster::local());
            }

            #[test]
            $(#[$attribute])*
            fn local_by_ecs_exec() {
                super::$name(&crate::cluster::Cluster::local_by_ecs_exec());
            }
        }
    )*};
}

/// The same, and on moto with OpenSSH.
macro_rules! on_every_cluster {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn local() {
                super::$name(&crate::cluster::Cluster::local());
            }

            #[test]
            fn local_by_ecs_exec() {
                super::$name(&crate::cluster::Cluster::local_by_ecs_exec());
            }

            #[test]
            #[ignore = "needs moto and OpenSSH's sshd: scripts/test installs them and runs this"]
            fn moto_and_openssh() {
                super::$name(&crate::cluster::Cluster::moto());
            }
        }
    )*};
}

pub(crate) use {by_every_transport, on_every_cluster};
