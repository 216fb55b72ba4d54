"""Commands that come with the backend; `gsv` finds them by the entry points `gsv.commands`."""
