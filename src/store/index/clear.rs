//! Emptying one vnode's table, page by page.

use super::{Entry, Index, Page, Vnode};
use crate::store::segments::Memory;

impl Index {
    /// Takes all entries out of one page of `vnode` into `entries` and gives the page's memory back; whether there is a
    /// page of that number. Look-ups in the other pages go on finding what is there.
    pub(in crate::store) fn clear_page(
        &mut self,
        memory: &mut Memory,
        vnode: usize,
        number: usize,
        entries: &mut Vec<Entry>,
    ) -> bool {
        entries.clear();
        if number >= self.vnodes[vnode].pages.len() {
            debug_assert_eq!(self.vnodes[vnode].entries, 0, "every page was cleared");
            self.vnodes[vnode] = Vnode::default();
            return false;
        }
        self.empty_if_flushed(memory, vnode, number);
        let page = self.vnodes[vnode].pages[number];
        if page.buckets > 0 {
            entries.extend(page.entries(memory));
            self.vnodes[vnode].entries -= entries.len() as u32;
            self.vnodes[vnode].pages[number] = Page { flush_epoch: self.flush_epoch, ..Page::default() };
            self.give(memory, page);
        }
        true
    }
}
