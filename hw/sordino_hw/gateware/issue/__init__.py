"""From activation words to events: weight masks, segments, one event a cycle."""
