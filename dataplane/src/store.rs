//! Packets that wait, in a fixed number of cells, chained into queues: one per packet in fragments, or per flow, and one
//! of those that are ready. A cell is taken by [`Store::push`] and given back by [`Store::pop`]; packets are moved,
//! never copied.

use crate::slot::NIL;

/// A queue of cells of one [`Store`]. Must be emptied before it is forgotten, or its cells are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queue {
    head: u32,
    tail: u32,
}

impl Queue {
    pub(crate) const EMPTY: Self = Self { head: NIL, tail: NIL };
}

#[derive(Debug)]
struct Cell<T> {
    held: Option<T>,
    next: u32,
}

/// The cells.
#[derive(Debug)]
pub(crate) struct Store<T> {
    cells: Box<[Cell<T>]>,
    vacant: Vec<u32>,
}

impl<T> Store<T> {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            cells: (0..capacity)
                .map(|_| Cell {
                    held: None,
                    next: NIL,
                })
                .collect(),
            vacant: (0..capacity).rev().collect(),
        }
    }

    /// Frames it has room for.
    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.cells.len()).unwrap_or(u32::MAX)
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> u32 {
        self.capacity() - u32::try_from(self.vacant.len()).unwrap_or(u32::MAX)
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The frame, when every cell is taken.
    pub(crate) fn push(&mut self, queue: &mut Queue, held: T) -> Result<(), T> {
        let Some(id) = self.vacant.pop() else {
            return Err(held);
        };
        self.cells[id as usize] = Cell {
            held: Some(held),
            next: NIL,
        };
        self.append(queue, Queue { head: id, tail: id });
        Ok(())
    }

    /// Takes the oldest frame.
    pub(crate) fn pop(&mut self, queue: &mut Queue) -> Option<T> {
        let id = queue.head;
        let cell = self.cells.get_mut(id as usize)?;
        queue.head = cell.next;
        if queue.head == NIL {
            queue.tail = NIL;
        }
        self.vacant.push(id);
        cell.held.take()
    }

    /// The oldest frame.
    pub(crate) fn front(&self, queue: &Queue) -> Option<&T> {
        self.cells.get(queue.head as usize)?.held.as_ref()
    }

    /// Moves all of `more` behind `queue`.
    pub(crate) fn append(&mut self, queue: &mut Queue, more: Queue) {
        if more.head == NIL {
            return;
        }
        match self.cells.get_mut(queue.tail as usize) {
            Some(last) => last.next = more.head,
            None => queue.head = more.head,
        }
        queue.tail = more.tail;
    }

    /// Changes everything in a queue.
    pub(crate) fn for_each(&mut self, queue: &Queue, mut change: impl FnMut(&mut T)) {
        let mut id = queue.head;
        while let Some(cell) = self.cells.get_mut(id as usize) {
            if let Some(held) = &mut cell.held {
                change(held);
            }
            id = cell.next;
        }
    }
}
