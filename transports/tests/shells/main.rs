//! Tests the delivery protocol with real shells: always this machine's /bin/sh, and others if they
//! are installed.

#![allow(clippy::unwrap_used, reason = "a test may end by a panic")]

mod abandoned;
mod broken;
mod detached;
mod image;
mod job;
mod local;
mod pieces;
mod pty;
mod running;
mod silence;
mod standby;
mod steps;

/// Defines every case for every kind of environment.
macro_rules! in_every_shell {
    ($($(#[$attribute:meta])* $module:ident: $surroundings:ident by $by:ident;)*) => {$(
        mod $module {
            use crate::{broken, detached, running, silence, local::{By, Local, Surroundings}};

            in_every_shell!(@cases [$(#[$attribute])*] $surroundings $by, running:
                probed_facts_are_correct, output_is_exact_and_in_order, exit_codes, death_by_signal, five_megabyte_script, binary_output, unicode,
                stdin_is_empty, first_lines, the_environment_is_the_login_shells, output_comes_while_it_runs,
                startup_file_output_is_not_script_output, forgotten_runs_are_removed, script_without_output,
                temporary_files_are_deleted, what_the_container_has_used_is_reported,
            );
            in_every_shell!(@cases [$(#[$attribute])*] $surroundings $by, detached:
                background_process_does_not_hold_the_run, attach_at_an_offset, second_start_is_an_attach, two_starts_at_once,
                term_reaches_the_whole_group, kill_reaches_the_whole_group, signals_after_the_end,
                signal_claims_a_start_in_flight, signal_reaches_a_start_that_came_first, dropped_connection_resumes_at_the_next_byte,
                slow_reader, killed_supervisor, killed_wrapper, output_after_the_end,
            );
            in_every_shell!(@cases [$(#[$attribute])*] $surroundings $by, silence:
                a_silent_script_costs_nothing, an_attached_end_is_noticed_without_polling, a_killed_wrapper_is_noticed_by_an_attached_run,
                a_background_process_does_not_hold_an_attached_run, a_script_inherits_no_descriptor,
                a_lost_connection_leaves_no_process, runs_end_without_a_fifo, environment_is_unchanged,
            );
            in_every_shell!(@cases [$(#[$attribute])*] $surroundings $by, broken:
                unknown_runs, missing_program_is_named, missing_shell_is_replaced, no_writable_directory, full_disk_at_the_start,
                run_directory_that_vanished, run_directory_that_vanishes, cut_upload,
                altered_upload,
            );
        }
    )*};
    (@cases $attributes:tt $surroundings:ident $by:ident, $group:ident: $($case:ident,)*) => {$(
        in_every_shell!(@case $attributes $surroundings $by, $group, $case);
    )*};
    (@case [$($attribute:tt)*] $surroundings:ident $by:ident, $group:ident, $case:ident) => {
        #[tokio::test]
        $($attribute)*
        async fn $case() {
            tokio::time::timeout(std::time::Duration::from_secs(120), $group::$case(Local::new(Surroundings::$surroundings, By::$by)))
                .await
                .expect("the case takes seconds");
        }
    };
}

in_every_shell! {
    sh: System by Pipes;
    #[ignore = "needs bash"] bash: Bash by Pipes;
    #[ignore = "needs busybox"] busybox_shell: BusyboxShell by Pipes;
    #[ignore = "needs busybox"] busybox_alone: BusyboxAlone by Pipes;
    #[ignore = "needs busybox"] least: Least by Pipes;
    sh_in_a_terminal: System by Terminal;
    #[ignore = "needs bash"] bash_in_a_terminal: Bash by Terminal;
    #[ignore = "needs busybox"] busybox_shell_in_a_terminal: BusyboxShell by Terminal;
    #[ignore = "needs busybox"] busybox_alone_in_a_terminal: BusyboxAlone by Terminal;
    #[ignore = "needs busybox"] least_in_a_terminal: Least by Terminal;
}

/// Defines the cases of runs that a standby starts.
macro_rules! by_a_standby {
    ($($(#[$attribute:meta])* $module:ident: $surroundings:ident;)*) => {$(
        mod $module {
            use crate::{broken, detached, running, silence, standby, local::{By, Local, Surroundings}};

            in_every_shell!(@cases [$(#[$attribute])*] $surroundings Standby, running:
                output_is_exact_and_in_order, exit_codes, death_by_signal, five_megabyte_script, binary_output, unicode,
                stdin_is_empty, first_lines, the_environment_is_the_login_shells, output_comes_while_it_runs,
                startup_file_output_is_not_script_output, script_without_output, temporary_files_are_deleted,
            );
            in_every_shell!(@cases [$(#[$attribute])*] $surroundings Standby, detached:
                background_process_does_not_hold_the_run, attach_at_an_offset, second_start_is_an_attach, two_starts_at_once,
                term_reaches_the_whole_group, kill_reaches_the_whole_group, signals_after_the_end,
                signal_claims_a_start_in_flight, signal_reaches_a_start_that_came_first, dropped_connection_resumes_at_the_next_byte,
                slow_reader, killed_supervisor, killed_wrapper,
            );
            in_every_shell!(@cases [$(#[$attribute])*] $surroundings Standby, silence:
                a_silent_script_costs_nothing, an_attached_end_is_noticed_without_polling, a_killed_wrapper_is_noticed_by_an_attached_run,
                a_background_process_does_not_hold_an_attached_run, a_script_inherits_no_descriptor,
                a_lost_connection_leaves_no_process, runs_end_without_a_fifo, environment_is_unchanged,
            );
            in_every_shell!(@cases [$(#[$attribute])*] $surroundings Standby, broken:
                missing_shell_is_replaced, run_directory_that_vanished, run_directory_that_vanishes,
            );
            in_every_shell!(@cases [$(#[$attribute])*] $surroundings Standby, standby:
                runs_need_no_other_command, a_flood_after_the_end_is_not_the_next_runs_output, a_killed_standby_is_replaced,
                a_script_that_kills_every_process, what_fails_is_started_by_another_command, orders_that_are_cut_run_once,
                runs_are_forgotten_and_leave_no_process, what_is_only_sent_ahead_never_runs,
            );
        }
    )*};
}

by_a_standby! {
    sh_by_a_standby: System;
    #[ignore = "needs bash"] bash_by_a_standby: Bash;
    #[ignore = "needs busybox"] busybox_shell_by_a_standby: BusyboxShell;
    #[ignore = "needs busybox"] busybox_alone_by_a_standby: BusyboxAlone;
}

/// Defines every case of the job's container, for every kind of image and of coordinator.
macro_rules! in_every_image {
    ($($(#[$attribute:meta])* $module:ident: $image:ident beside $surroundings:ident by $by:ident;)*) => {$(
        mod $module {
            use crate::{image::Image, job, local::{By, Local, Surroundings}};

            in_every_image!(@cases [$(#[$attribute])*] $image $surroundings $by:
                facts_are_correct, exit_codes, death_by_signal, output_is_exact_and_in_order, five_megabyte_script,
                the_environment_is_the_images, interpreters, a_run_is_resumed_at_an_offset, a_script_runs_once,
                an_order_that_was_not_given_is_given_again, a_script_that_was_not_started_is_cancelled, term_reaches_every_process, kill_reaches_every_process,
                signals_before_and_after, background_process_does_not_hold_the_run, forgotten_runs_are_removed,
                the_end_of_the_container_ends_the_run, links_of_the_job_are_not_followed, a_container_that_is_not_up,
                the_main_process_ends_on_sigterm, a_silent_script_costs_nothing, what_the_container_has_used_is_reported,
            );
        }
    )*};
    (@cases $attributes:tt $image:ident $surroundings:ident $by:ident: $($case:ident,)*) => {$(
        in_every_image!(@case $attributes $image $surroundings $by $case);
    )*};
    (@case [$($attribute:tt)*] $image:ident $surroundings:ident $by:ident $case:ident) => {
        #[tokio::test]
        $($attribute)*
        async fn $case() {
            let local = Local::new(Surroundings::$surroundings, By::$by);
            tokio::time::timeout(std::time::Duration::from_secs(120), job::$case(local, Image::$image))
                .await
                .expect("the case takes seconds");
        }
    };
}

in_every_image! {
    image_with_sh: Sh beside System by Pipes;
    image_with_setsid: ShAndSetsid beside System by Pipes;
    #[ignore = "needs bash"] image_with_bash: Bash beside Bash by Pipes;
    #[ignore = "needs busybox"] image_with_busybox: Busybox beside BusyboxAlone by Pipes;
    #[ignore = "needs root, bubblewrap and busybox"] image_with_a_user: Unprivileged beside System by Pipes;
    image_with_sh_by_a_terminal: Sh beside System by Terminal;
    #[ignore = "needs busybox"] image_with_busybox_by_a_terminal: Busybox beside BusyboxAlone by Terminal;
    #[ignore = "needs root, bubblewrap and busybox"] image_with_a_user_by_a_terminal: Unprivileged beside System by Terminal;
}

/// Checks the programs' syntax by `sh -n`, in each shell.
fn parses(shell: &[&str]) {
    for program in [
        "follow.sh",
        "armor.sh",
        "usage.sh",
        "supervisor.sh",
        "job.sh",
        "verbs.sh",
        "standby.sh",
        "ready.sh",
        "starter.sh",
        "place.sh",
        "wrapper.sh",
        "loop.sh",
        "terminal/shell.sh",
    ] {
        let file =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/delivery").join(program);
        let checked = std::process::Command::new(shell[0])
            .args(&shell[1..])
            .arg("-n")
            .arg(&file)
            .output()
            .unwrap();
        assert!(
            checked.status.success() && checked.stderr.is_empty(),
            "{shell:?} {program}: {}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}

#[test]
fn programs_parse_in_sh() {
    parses(&["/bin/sh"]);
}

#[test]
#[ignore = "needs dash, bash and busybox"]
fn programs_parse_in_every_shell() {
    for shell in [&["dash"][..], &["bash", "--posix"], &["busybox", "sh"]] {
        parses(shell);
    }
}
