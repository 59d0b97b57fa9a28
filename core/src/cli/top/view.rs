//! What the user has chosen to see, and the keys that choose.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Rows that Page Up and Page Down move by.
const PAGE: usize = 10;

/// The table that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Listeners,
    Clusters,
    Workers,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Listeners, Self::Clusters, Self::Workers];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Listeners => "Listeners",
            Self::Clusters => "Clusters",
            Self::Workers => "Workers",
        }
    }
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Quit,
}

/// The user's choices.
#[derive(Debug)]
pub(super) struct View {
    pub(super) base_id: u32,
    pub(super) interval: Duration,
    pub(super) table: Table,
    /// First row that is shown, for each table. Drawing brings it back into bounds.
    pub(super) offsets: [usize; 3],
    pub(super) is_paused: bool,
    pub(super) is_helping: bool,
    /// The busiest first, instead of by name.
    pub(super) by_load: bool,
}

impl View {
    pub(super) const fn new(base_id: u32, interval: Duration) -> Self {
        Self {
            base_id,
            interval,
            table: Table::Listeners,
            offsets: [0; 3],
            is_paused: false,
            is_helping: false,
            by_load: false,
        }
    }

    /// Obeys a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Flow {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Flow::Quit,
            KeyCode::Char('q' | 'Q') => return Flow::Quit,
            // Whoever reads the help wants out of the help.
            KeyCode::Esc if self.is_helping => self.is_helping = false,
            KeyCode::Esc => return Flow::Quit,
            KeyCode::Char('?' | 'h') => self.is_helping = !self.is_helping,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => {
                self.by_load = !self.by_load;
                *self.offset() = 0;
            }
            KeyCode::Char('1') => self.table = Table::Listeners,
            KeyCode::Char('2') => self.table = Table::Clusters,
            KeyCode::Char('3') => self.table = Table::Workers,
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(Table::ALL.len() - 1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(|offset| offset.saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(|offset| offset.saturating_sub(1)),
            KeyCode::PageDown => self.scroll(|offset| offset.saturating_add(PAGE)),
            KeyCode::PageUp => self.scroll(|offset| offset.saturating_sub(PAGE)),
            KeyCode::Home => self.scroll(|_| 0),
            KeyCode::End => self.scroll(|_| usize::MAX),
            _ => {}
        }
        Flow::Go
    }

    /// The scroll position of the table that is shown.
    pub(super) const fn offset(&mut self) -> &mut usize {
        &mut self.offsets[self.table as usize]
    }

    fn turn(&mut self, by: usize) {
        self.table = Table::ALL[(self.table as usize + by) % Table::ALL.len()];
    }

    fn scroll(&mut self, to: impl Fn(usize) -> usize) {
        let offset = self.offset();
        *offset = to(*offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View::new(0, Duration::from_secs(1))
    }

    fn press(view: &mut View, codes: &[KeyCode]) -> Flow {
        let mut flow = Flow::Go;
        for code in codes {
            flow = view.press(KeyEvent::new(*code, KeyModifiers::NONE));
        }
        flow
    }

    #[test]
    fn ways_out() {
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut view(), &[code]), Flow::Quit);
        }
        assert_eq!(view().press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Flow::Quit);
        assert_eq!(view().press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::NONE)), Flow::Go);
        let mut view = view();
        assert_eq!(press(&mut view, &[KeyCode::Char('?'), KeyCode::Esc]), Flow::Go);
        assert!(!view.is_helping);
    }

    #[test]
    fn tables_turn_around() {
        let mut view = view();
        press(&mut view, &[KeyCode::BackTab]);
        assert_eq!(view.table, Table::Workers);
        press(&mut view, &[KeyCode::Tab, KeyCode::Tab]);
        assert_eq!(view.table, Table::Clusters);
        press(&mut view, &[KeyCode::Char('3')]);
        assert_eq!(view.table, Table::Workers);
    }

    #[test]
    fn each_table_has_a_position_of_its_own() {
        let mut view = view();
        press(&mut view, &[KeyCode::Up, KeyCode::Down, KeyCode::Down, KeyCode::Tab, KeyCode::PageDown]);
        assert_eq!(view.offsets, [2, 10, 0]);
        press(&mut view, &[KeyCode::Home]);
        assert_eq!(view.offsets, [2, 0, 0]);
    }
}
