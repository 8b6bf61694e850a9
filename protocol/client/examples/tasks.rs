//! Many tasks, one client: clones share its connections, and what they ask at the same time leaves in one write.
//!
//! Start a node with `quoit serve`, then `cargo run -p quoit-client --example tasks [host:port]`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use quoit_client::{Error, Options, SetOptions, tokio::Client};

const TASKS: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let client = Client::connect([server], Options::default()).await?;

    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(store_and_read(client.clone(), task))).collect();
    let mut found = 0;
    for task in tasks {
        found += usize::from(task.await.expect("the task does not panic")?);
    }
    println!("{found} of {TASKS} tasks read back what they had stored");
    Ok(())
}

async fn store_and_read(client: Client, task: usize) -> Result<bool, Error> {
    let key = format!("task:{task}");
    client.set(&key, task.to_string(), SetOptions::default()).await?;
    Ok(client.get(&key).await?.is_some_and(|hit| hit.value == task.to_string().as_bytes()))
}
