//! Data folders as they are before the first start. Copying one takes a tenth of a second,
//! making it two.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::Dist;
use crate::error::{IoContext, StackError};
use crate::files;
use crate::postgres::ORDERS;
use crate::progress::Progress;
use crate::user::{self, User};

/// All stacks share it; each has its own topics, with ids of their own.
const CLUSTER_ID: &str = "5L6g3nShT-eMCtK--X86sw";

pub(super) fn make(dist: &Dist) -> Result<(), StackError> {
    let _progress = Progress::start("preparing empty data folders");
    files::create_folder(&dist.path().join("templates"))?;
    kafka(dist)?;
    postgres(dist)
}

fn kafka(dist: &Dist) -> Result<(), StackError> {
    let template = dist.kafka_template();
    let settings = dist.path().join("format.properties");
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n\
         listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n\
         controller.listener.names=CONTROLLER\nlog.dirs={}\n",
        template.display()
    );
    fs::write(&settings, text).doing("cannot write", &settings)?;
    let mut format = Command::new(&dist.java().path);
    format
        .env("CLASSPATH", dist.class_path()?)
        .args(["-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "kafka.tools.StorageTool", "format"])
        .args(["--cluster-id", CLUSTER_ID, "--config"])
        .arg(&settings);
    run("formatting Kafka's storage", &mut format, "")
}

fn postgres(dist: &Dist) -> Result<(), StackError> {
    let user = user::for_postgres()?;
    let template = dist.postgres_template();
    fs::create_dir_all(&template).doing("cannot create", &template)?;
    files::give(&template, user)?;
    let password = dist.path().join("password");
    fs::write(&password, ORDERS).doing("cannot write", &password)?;

    let mut initdb = as_user(Command::new(dist.postgres_program("initdb")), user);
    initdb
        .arg("--pgdata")
        .arg(&template)
        .arg("--pwfile")
        .arg(&password)
        .args(["--username", ORDERS, "--encoding", "UTF8", "--no-locale", "--no-sync"])
        .args(["--auth-local", "scram-sha-256", "--auth-host", "scram-sha-256"]);
    run("creating PostgreSQL's data folder", &mut initdb, "")?;

    let mut single = as_user(Command::new(dist.postgres_program("postgres")), user);
    single.args(["--single", "-j", "-D"]).arg(&template).arg("postgres");
    let statement = format!("CREATE DATABASE {ORDERS};\n\n");
    run("creating the database orders", &mut single, &statement)
}

fn as_user(mut command: Command, user: Option<User>) -> Command {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    // The account may not look into the folder that we stand in.
    command.current_dir("/").env("LC_ALL", "C");
    command
}

fn run(doing: &'static str, command: &mut Command, input: &str) -> Result<(), StackError> {
    let mut attempt = || -> std::io::Result<_> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // A program that ended without reading it says why in its output.
        let _ = child.stdin.take().map(|mut pipe| pipe.write_all(input.as_bytes()));
        child.wait_with_output()
    };
    let output = attempt().map_err(|source| StackError::Io { doing: doing.to_owned(), source })?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // A single-user server reports a failed statement and ends well.
    if output.status.success() && !said.contains("ERROR:") {
        return Ok(());
    }
    Err(StackError::Preparation { doing, detail: said.into_owned() })
}
