//! Cache-aside, the common use of a cache: ask it for everything at once, load what is missing, store that for the next one.
//!
//! A cache that is away must not take the application with it: its errors are treated as misses here.
//!
//! Start a node with `quoit serve`, then `cargo run -p quoit-client --example cache_aside [host:port]` twice.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use quoit_client::{Error, Item, Options, blocking::Client};

const TTL_MS: u64 = 60_000;

fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let mut client = Client::connect([server], Options::default())?;
    let ids: Vec<u32> = (1..=20).collect();
    let (articles, loaded) = articles(&mut client, &ids);
    println!("{} articles, {loaded} of them loaded from the database", articles.len());
    println!("the first: {}", articles[0]);
    Ok(())
}

/// The articles in the order of `ids`, and how many had to be loaded.
fn articles(client: &mut Client, ids: &[u32]) -> (Vec<String>, usize) {
    let keys: Vec<String> = ids.iter().map(|id| format!("article:{id}")).collect();
    let mut articles: Vec<Option<String>> = match client.multi_get(&keys) {
        Ok(results) => results.into_iter().map(text_of).collect(),
        Err(_) => vec![None; ids.len()],
    };
    let missing: Vec<usize> = (0..ids.len()).filter(|index| articles[*index].is_none()).collect();
    for index in &missing {
        articles[*index] = Some(load_from_database(ids[*index]));
    }
    let articles: Vec<String> = articles.into_iter().flatten().collect();
    let items = missing.iter().map(|index| Item {
        key: keys[*index].as_bytes(),
        value: articles[*index].as_bytes(),
        ttl_ms: TTL_MS,
        client_flags: 0,
    });
    if let Err(error) = client.multi_set(items) {
        println!("not cached, it will be loaded again: {error}");
    }
    (articles, missing.len())
}

fn text_of(result: Result<Option<quoit_client::Hit>, Error>) -> Option<String> {
    String::from_utf8(result.ok()??.value).ok()
}

fn load_from_database(id: u32) -> String {
    format!("Article {id}, which took long to write")
}
