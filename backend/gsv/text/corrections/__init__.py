"""What the reading ``corrected`` changes in a text before it is read as upstream reads it.

Upstream loses words and misreads amounts that are written in ways its rules do not know: decomposed
letters, full-width digits, commas inside numbers, currencies, units, dashes. Each module here
rewrites some of them into forms that upstream's rules read rightly:

    characters   canonical composition, compatibility forms, spaces, dashes; before splitting
    expressions  numbers with their signs and units, kept whole while a sentence is segmented
    english, chinese, japanese, korean           amounts, dates and signs in words, per segment
    units        names of units and currencies

Every change is recorded with its reason (``changes.Change``); ``gsv phones`` shows them.
"""
