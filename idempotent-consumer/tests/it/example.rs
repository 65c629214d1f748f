//! The example runs, and counts.

use std::process::Command;

use crate::support::{World, example};

#[tokio::test]
async fn the_example_counts_each_page_view_once_and_publishes_every_hundredth() {
    let world = World::new().await;
    let milestones = format!("{}.milestones", world.config.topic);
    let settings = world.config.kafka.clone();
    let topics =
        idempotent_consumer::publish::Topics::new(&settings, std::time::Duration::from_secs(20))
            .unwrap();
    topics.ensure(&milestones, 1).await.unwrap();
    for id in (0..120).chain(0..30) {
        world.send_json(id, r#"{"page":"/tea"}"#);
    }
    world.flush();
    let servers = settings.bootstrap_servers().to_owned();
    let (url, topic, to) =
        (world.database_url.clone(), world.config.topic.clone(), milestones.clone());
    let output = tokio::task::spawn_blocking(move || {
        Command::new(example("page_views"))
            .env("KAFKA_BOOTSTRAP_SERVERS", servers)
            .env("DATABASE_URL", url)
            .env("TOPIC", topic)
            .env("MILESTONES_TOPIC", to)
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text, "120 counted, 30 seen before\n");
    let views: i64 =
        sqlx::query_scalar("SELECT views FROM page_views").fetch_one(&world.pool).await.unwrap();
    assert_eq!(views, 120);
    let published = tokio::task::spawn_blocking(move || topics.watermarks(&milestones, 0))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(published, (0, 1));
}
