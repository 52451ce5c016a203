//! Runs one suite with every transport and on every cluster.
//!
//! A test of features that only SSH and ECS Exec have says why it does not run by pipes: `name (not
//! by pipes: "why")`.

/// Defines tests on the local cluster: a module for each, with a test by SSH, one by ECS Exec and
/// one by the tests' own transport.
macro_rules! by_every_transport {
    ($($(#[$attribute:meta])* $name:ident $((not by pipes: $why:literal))?),* $(,)?) => {$(
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

            $(#[doc = $why] #[cfg(any())])?
            #[test]
            $(#[$attribute])*
            fn local_by_pipes() {
                super::$name(&crate::cluster::Cluster::local_by_pipes());
            }
        }
    )*};
}

/// As [`by_every_transport`], and on moto with OpenSSH.
macro_rules! on_every_cluster {
    ($($name:ident $((not by pipes: $why:literal))?),* $(,)?) => {$(
        mod $name {
            #[test]
            fn local() {
                super::$name(&crate::cluster::Cluster::local());
            }

            #[test]
            fn local_by_ecs_exec() {
                super::$name(&crate::cluster::Cluster::local_by_ecs_exec());
            }

            $(#[doc = $why] #[cfg(any())])?
            #[test]
            fn local_by_pipes() {
                super::$name(&crate::cluster::Cluster::local_by_pipes());
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
