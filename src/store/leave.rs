//! Vnodes that leave the store: out of reach at once, their items dropped page by page.

use super::Store;

impl Store {
    /// This store owns `vnode` no longer: nothing in it may be read or written until [`Self::drop_page`] has dropped all of
    /// it and [`Self::add_vnode`] begins it anew.
    pub fn disown_vnode(&mut self, vnode: usize) {
        self.versions.disown(vnode);
    }

    /// Drops the items in page `page` of a vnode that is not owned any more; whether there was such a page, and so may be
    /// a next one. Cost: some hundred items, each a miss in the processor's caches.
    pub fn drop_page(&mut self, vnode: usize, page: usize) -> bool {
        let mut entries = Vec::new();
        let was_there = self.index.clear_page(&mut self.memory, vnode, page, &mut entries);
        for entry in entries {
            let header = self.header_at(entry.location());
            self.retire(entry.location(), &header);
        }
        was_there
    }
}

#[cfg(test)]
mod tests {
    use quoit_wire::topology::key_hash;

    use super::*;
    use crate::store::{Condition, Expiry, PolicyKind, Progress, SetOutcome, StoreOptions, Write};
    use crate::time::Instant;

    #[test]
    fn a_vnode_that_left_gives_all_its_memory_back_and_comes_back_empty() {
        let options = StoreOptions {
            memory_bytes: 32 << 20,
            value_bytes_max: 1 << 20,
            policy: PolicyKind::None,
            vnode_bits: 1,
            hash_seed: 1,
        };
        let mut store = Store::new(options).unwrap();
        let now = Instant::from_millis(1);
        store.add_vnode(0, 5);
        store.add_vnode(1, 5);
        let keys: Vec<Vec<u8>> = (0..20_000).map(|number| format!("key-{number}").into_bytes()).collect();
        let value = vec![7; 300];
        let large = vec![8; 200_000];
        for (number, key) in keys.iter().enumerate() {
            let value = if number % 1000 == 0 { &large } else { &value };
            let write = Write { value, client_flags: 0, expiry: Expiry::NEVER, condition: Condition::Always };
            assert!(matches!(store.set(now, key_hash(1, key), key, write), SetOutcome::Stored(_)));
        }
        let stays = |key: &[u8]| key_hash(1, key) >> 63 == 1;
        store.disown_vnode(0);
        let mut pages = 0;
        while store.drop_page(0, pages) {
            pages += 1;
            // Others are written to, and evicted from, meanwhile.
            let key = keys.iter().filter(|key| stays(key)).nth(pages).unwrap();
            let write = Write { value: &value, client_flags: 0, expiry: Expiry::NEVER, condition: Condition::Always };
            assert!(matches!(store.set(now, key_hash(1, key), key, write), SetOutcome::Stored(_)));
            store.work(now, 8);
        }
        assert!(pages > 10, "many pages: {pages}");
        assert_eq!(store.items(), keys.iter().filter(|key| stays(key)).count());
        while store.work(now, 100) == Progress::More {}
        let left_bytes = store.used_bytes();
        store.add_vnode(0, 6);
        for key in &keys {
            assert_eq!(store.get(now, key_hash(1, key), key).is_some(), stays(key));
        }
        store.disown_vnode(1);
        (0..).take_while(|page| store.drop_page(1, *page)).for_each(drop);
        assert_eq!(store.items(), 0);
        while store.work(now, 100) == Progress::More {}
        assert!(store.used_bytes() * 10 < left_bytes, "{} of {left_bytes}", store.used_bytes());
    }
}
