//! A broker that has just started answers that there is no broker, and clients forget all they knew.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use faults::frames::Protocol;
use local_stack::{Options, Stack};

use crate::support::consumer::Consumer;
use crate::support::pipes::Piped;
use crate::support::poll::{eventually, wait};
use crate::support::proxy::Proxy;
use crate::support::secure::free_port;
use crate::support::stacks::QUICK;
use crate::support::world::{World, orders};

/// Every client asks who the brokers are, again and again, and not only when it misses something.
const ASKING: [&str; 2] = ["-X", "topic.metadata.refresh.interval.ms=500"];

/// One broker, with a proxy that all of its clients' connections go through.
struct Hidden {
    proxy: Proxy,
    stack: Stack,
}

/// One for both tests, which take turns: it hides its brokers from all clients.
fn hidden() -> (&'static Hidden, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    static HIDDEN: LazyLock<Hidden> = LazyLock::new(|| {
        let listening = wait(Proxy::listen()).unwrap();
        let port = free_port();
        let options = Options::private("hidden").kafka_listener("PROXIED", port, listening.port);
        let stack = Stack::start(options).unwrap();
        let proxy = wait(async { listening.pass_to(port, Protocol::Kafka) });
        Hidden { proxy, stack }
    });
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (&HIDDEN, turn)
}

impl Hidden {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port())
    }

    /// Every client comes anew, and whoever asks within a few seconds is told of no broker.
    fn hide(&self) {
        let before = self.proxy.hidden();
        self.proxy.hide_brokers(true);
        self.proxy.cut();
        eventually("somebody asks who the brokers are", || self.proxy.hidden() > before);
        std::thread::sleep(Duration::from_secs(3));
        self.proxy.hide_brokers(false);
    }
}

#[test]
fn a_consumer_whose_brokers_named_none_goes_on_and_tells_of_what_it_did() {
    let (hidden, _turn) = hidden();
    let world = World::on(hidden.stack.endpoints(), "hidden", 3);
    let told = format!("{}.told", world.topic);
    let mut command = world.command("run", &[&QUICK[..], &ASKING[..], &["-o", "json"]].concat());
    command.args(["--notifications-topic", &told]).env("KAFKA_BOOTSTRAP_SERVERS", hidden.address());
    let consumer = Consumer::of(command, &world.topic);
    let is_told = |count| {
        eventually("it is told of all", || world.seen(&told, true).len() == count);
    };
    world.send(&orders(0, 50, 5));
    world.wait_consumed();
    is_told(50);
    for round in 1..3 {
        hidden.hide();
        world.send(&orders(round * 50, 50, 5));
        world.wait_consumed();
        is_told(usize::try_from(round).unwrap() * 50 + 50);
    }
    consumer.stop().summary();
    world.audit();
}

#[test]
fn a_pipe_whose_brokers_named_none_goes_on() {
    let (hidden, _turn) = hidden();
    let mut piped = Piped::on(hidden.stack.endpoints(), "pipe_hidden", 2);
    let arguments = [&QUICK[..], &ASKING[..], &["--transaction-timeout", "10s"]].concat();
    let pipe = piped.start(&arguments, &[("KAFKA_BOOTSTRAP_SERVERS", &hidden.address())]);
    let is_through = |piped: &Piped| {
        eventually("all is through", || piped.downstream(true).len() == piped.sent());
    };
    piped.send(0, 40);
    is_through(&piped);
    for round in 1..3 {
        hidden.hide();
        piped.send(round * 40, 40);
        is_through(&piped);
    }
    pipe.stop().summary();
    piped.assert_each_once();
}
