//! Runs one script over a new SSH connection, as one `run` stage does: what the benchmark `ssh` measures.
//!
//! Usage: `run_once PORT USER KEY PINNED RUN_DIR TAIL SETSID RUN SCRIPT`; `PINNED` empty: shows what first contact
//! learns (identity and shell facts, a line each) and runs nothing.

use std::{error::Error, fs::File, io::Write as _, os::fd::AsFd as _, process::ExitCode, time::Duration};

use states::{HostIdentity, Run as _, RunEvent, RunId, RunOrder, Session as _, ShellFacts, Target, TaskArn, Transport as _};
use transports::ssh::{SshSettings, SshTransport};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run_once())
}

async fn run_once() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, user, key, pinned, run_dir, tail, setsid, run, script] = arguments.as_slice() else {
        return Err("PORT USER KEY PINNED RUN_DIR TAIL SETSID RUN SCRIPT are expected".into());
    };
    let known = !pinned.is_empty();
    let facts = ShellFacts { run_dir: run_dir.clone(), follows_with_tail: tail == "1", has_setsid: setsid == "1", has_bash: false };
    let target = Target {
        address: "127.0.0.1".to_owned(),
        cluster: "none".to_owned(),
        task: TaskArn::new("none")?,
        container: "none".to_owned(),
        key: key.into(),
        pinned: known.then(|| HostIdentity(pinned.clone())),
        facts: known.then_some(facts),
        connect_timeout: Duration::from_secs(5),
        attempt_timeout: Duration::from_secs(20),
    };
    let transport = SshTransport::new(SshSettings { username: user.clone(), port: port.parse()?, ..SshSettings::default() });
    let (session, greeting) = transport.connect(&target).await?;
    if !known {
        let facts = greeting.facts;
        println!("{}\n{}\n{}\n{}", greeting.identity, facts.run_dir, u8::from(facts.follows_with_tail), u8::from(facts.has_setsid));
        return Ok(ExitCode::SUCCESS);
    }
    let order = RunOrder { run: RunId::new(run.clone())?, stage: "build_script".to_owned(), forget: None };
    let mut run = session.start(&order, std::fs::read(script)?.into()).await?;
    // Not `Stdout` itself: it looks for line ends.
    let mut stdout = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let code = loop {
        match run.next().await? {
            RunEvent::Started => {}
            RunEvent::Output(bytes) => stdout.write_all(&bytes)?,
            RunEvent::Exited { code, .. } => break code,
        }
    };
    if std::env::var_os("SHOW_PEAK").is_some() {
        let status = std::fs::read_to_string("/proc/self/status")?;
        eprintln!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    }
    session.close().await;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
