"""Commands that the backend adds to ``gsv`` (entry points of the group ``gsv.commands``)."""
