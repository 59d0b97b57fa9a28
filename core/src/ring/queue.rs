//! Queues of chunks: one slab of links for all sockets of a worker, so that an idle socket's empty queues cost
//! twelve bytes each and no queue ever allocates for itself.

use super::buffers::Chunk;

const END: u32 = u32::MAX;

struct Link {
    chunk: Option<Chunk>,
    next: u32,
}

/// The links of all queues.
pub(super) struct Links {
    links: Vec<Link>,
    /// The first of those that no queue has.
    free: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { links: Vec::new(), free: END }
    }
}

/// One queue; its chunks live in [`Links`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    first: u32,
    last: u32,
    bytes: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { first: END, last: END, bytes: 0 }
    }
}

impl Queue {
    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.first == END
    }

    /// Sum of the lengths of the chunks.
    #[inline]
    pub(super) fn bytes(self) -> usize {
        self.bytes as usize
    }
}

#[allow(clippy::cast_possible_truncation)] // quotas and high-water marks bound queues far below 4 GiB
fn length(chunk: &Chunk) -> u32 {
    chunk.len() as u32
}

impl Links {
    #[inline]
    fn link(&mut self, chunk: Chunk, next: u32) -> u32 {
        if self.free as usize >= self.links.len() {
            self.grow();
        }
        let index = self.free;
        // It is there now.
        let Some(link) = self.links.get_mut(index as usize) else { return END };
        self.free = link.next;
        link.next = next;
        // A free link has no chunk: there is nothing to be dropped, and none of the code for that.
        let nothing = link.chunk.replace(chunk);
        debug_assert!(nothing.is_none());
        std::mem::forget(nothing);
        index
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        #[allow(clippy::cast_possible_truncation)] // memory ends long before 2^32 links
        let index = self.links.len() as u32;
        self.links.push(Link { chunk: None, next: self.free });
        self.free = index;
    }

    #[inline]
    pub(super) fn push_back(&mut self, queue: &mut Queue, chunk: Chunk) {
        queue.bytes += length(&chunk);
        let index = self.link(chunk, END);
        if queue.is_empty() {
            queue.first = index;
        } else {
            self.links[queue.last as usize].next = index;
        }
        queue.last = index;
    }

    pub(super) fn push_front(&mut self, queue: &mut Queue, chunk: Chunk) {
        queue.bytes += length(&chunk);
        queue.first = self.link(chunk, queue.first);
        if queue.last == END {
            queue.last = queue.first;
        }
    }

    #[inline]
    pub(super) fn pop_front(&mut self, queue: &mut Queue) -> Option<Chunk> {
        let index = queue.first;
        let link = self.links.get_mut(index as usize)?;
        let chunk = link.chunk.take()?;
        queue.first = std::mem::replace(&mut link.next, self.free);
        self.free = index;
        if queue.first == END {
            queue.last = END;
        }
        queue.bytes -= length(&chunk);
        Some(chunk)
    }

    /// Drops the first `n` bytes, which the queue must have.
    #[inline]
    pub(super) fn consume(&mut self, queue: &mut Queue, n: usize) {
        // Most often it is one chunk, and all of it.
        if queue.first == queue.last
            && queue.bytes() == n
            && let Some(link) = self.links.get_mut(queue.first as usize)
        {
            drop(link.chunk.take());
            link.next = std::mem::replace(&mut self.free, queue.first);
            *queue = Queue::default();
        } else {
            self.consume_some(queue, n);
        }
    }

    fn consume_some(&mut self, queue: &mut Queue, mut n: usize) {
        while n > 0 {
            let Some(chunk) = self.links.get_mut(queue.first as usize).and_then(|link| link.chunk.as_mut())
            else {
                debug_assert!(false, "consumed more than was queued");
                return;
            };
            if chunk.len() > n {
                chunk.advance(n);
                #[allow(clippy::cast_possible_truncation)] // n is below a chunk's length
                {
                    queue.bytes -= n as u32;
                }
                return;
            }
            n -= chunk.len();
            self.pop_front(queue);
        }
    }

    /// Moves chunks from the front of one queue to the end of another, until those that have moved are `room` bytes or
    /// more. Says how many they are.
    #[inline(always)]
    pub(super) fn pass_on(&mut self, from: &mut Queue, to: &mut Queue, room: usize) -> usize {
        if from.is_empty() || room == 0 {
            return 0;
        }
        let moving = if from.bytes() <= room { std::mem::take(from) } else { self.split(from, room) };
        if to.is_empty() {
            *to = moving;
        } else {
            self.links[to.last as usize].next = moving.first;
            to.last = moving.last;
            to.bytes += moving.bytes;
        }
        moving.bytes()
    }

    /// Cuts off the front of a queue that has more bytes than `room`: whole chunks, until they are that many or more.
    #[cold]
    fn split(&mut self, queue: &mut Queue, room: usize) -> Queue {
        let mut front = Queue { first: queue.first, last: queue.first, bytes: 0 };
        let mut next = queue.first;
        while front.bytes() < room
            && let Some(link) = self.links.get(next as usize)
        {
            front.bytes += link.chunk.as_ref().map_or(0, length);
            front.last = next;
            next = link.next;
        }
        self.links[front.last as usize].next = END;
        queue.first = next;
        if next == END {
            queue.last = END;
        }
        queue.bytes -= front.bytes;
        front
    }

    pub(super) fn clear(&mut self, queue: &mut Queue) {
        while self.pop_front(queue).is_some() {}
    }

    /// The last chunk.
    pub(super) fn last_mut(&mut self, queue: Queue) -> Option<&mut Chunk> {
        self.links.get_mut(queue.last as usize)?.chunk.as_mut()
    }

    /// Copies `bytes` behind the last chunk where that has room; see [`Chunk::append`].
    pub(super) fn append(&mut self, queue: &mut Queue, bytes: &[u8]) -> bool {
        let appended = self.last_mut(*queue).is_some_and(|chunk| chunk.append(bytes));
        if appended {
            #[allow(clippy::cast_possible_truncation)] // bounded by the size of a buffer
            {
                queue.bytes += bytes.len() as u32;
            }
        }
        appended
    }

    /// The only chunk, if there is just one.
    #[inline]
    pub(super) fn only(&self, queue: Queue) -> Option<&Chunk> {
        if queue.first != queue.last {
            return None;
        }
        self.links.get(queue.first as usize)?.chunk.as_ref()
    }

    /// The chunks from first to last.
    pub(super) fn iter(&self, queue: Queue) -> impl Iterator<Item = &Chunk> {
        let mut index = queue.first;
        std::iter::from_fn(move || {
            let link = self.links.get(index as usize)?;
            index = link.next;
            link.chunk.as_ref()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffers::Pool;
    use super::*;

    fn chunk(pool: &Pool, text: &str) -> Chunk {
        let mut buf = pool.write_buf();
        buf.bytes.extend_from_slice(text.as_bytes());
        buf.freeze()
    }

    fn text(links: &Links, queue: Queue) -> String {
        links.iter(queue).map(|c| String::from_utf8_lossy(c.as_slice()).into_owned()).collect()
    }

    #[test]
    fn chunks_leave_in_order_and_bytes_add_up() {
        let pool = Pool::new(1, 4096).unwrap();
        let mut links = Links::default();
        let (mut a, mut b) = (Queue::default(), Queue::default());
        links.push_back(&mut a, chunk(&pool, "one"));
        links.push_back(&mut b, chunk(&pool, "uno"));
        links.push_back(&mut a, chunk(&pool, "two"));
        links.push_front(&mut a, chunk(&pool, "zero"));
        assert_eq!((text(&links, a).as_str(), a.bytes()), ("zeroonetwo", 10));
        links.consume(&mut a, 5);
        assert_eq!((text(&links, a).as_str(), a.bytes()), ("netwo", 5));
        links.consume(&mut a, 5);
        assert!(a.is_empty() && a.bytes() == 0);
        links.push_front(&mut a, chunk(&pool, "x"));
        links.push_back(&mut a, chunk(&pool, "y"));
        assert_eq!(text(&links, a), "xy");
        links.clear(&mut a);
        assert_eq!(text(&links, b), "uno");
    }

    #[test]
    fn chunks_are_passed_on_in_order_as_long_as_there_is_room() {
        let pool = Pool::new(1, 4096).unwrap();
        let mut links = Links::default();
        let (mut a, mut b) = (Queue::default(), Queue::default());
        for word in ["one", "two", "three", "four"] {
            links.push_back(&mut a, chunk(&pool, word));
        }
        assert_eq!(links.pass_on(&mut a, &mut b, 0), 0);
        assert_eq!(links.pass_on(&mut a, &mut b, 4), 6, "the last one may be more than there is room for");
        assert_eq!((text(&links, a).as_str(), a.bytes()), ("threefour", 9));
        assert_eq!((text(&links, b).as_str(), b.bytes()), ("onetwo", 6));
        assert_eq!(links.pass_on(&mut a, &mut b, 6), 9, "the last chunk of all");
        assert!(a.is_empty() && a.bytes() == 0);
        assert_eq!(links.pass_on(&mut a, &mut b, 6), 0);
        links.push_back(&mut a, chunk(&pool, "five"));
        assert_eq!(links.pass_on(&mut a, &mut b, 100), 4);
        links.push_back(&mut a, chunk(&pool, "x"));
        assert_eq!((text(&links, a).as_str(), text(&links, b).as_str()), ("x", "onetwothreefourfive"));
        assert_eq!(b.bytes(), 19);
        links.consume(&mut b, 19);
        assert!(b.is_empty());
    }
}
