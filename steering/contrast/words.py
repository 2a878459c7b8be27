"""Vocabulary of what is made up."""


def _words(listing: str) -> tuple[str, ...]:
    return tuple(listing.split())


FIRST_NAMES = _words("""
Anna Ben Clara David Emma Felix Grace Henry Iris Jack Karen Leo Maria Noah Olga Paul Rosa Simon Tara Victor
""")
CITIES = _words("""
Lyon Oslo Madrid Lisbon Dublin Vienna Prague Athens Warsaw Berlin Rome Cairo Lima Quito Delhi Tokyo Seoul Boston
""")
COLOURS = _words("red blue green yellow black white purple orange brown grey")
JOBS = _words("baker teacher nurse pilot farmer lawyer painter plumber dentist gardener tailor butcher")
THINGS = _words("""
lamp chair table clock spoon mirror basket blanket bottle candle ladder hammer pillow kettle bucket drum
""")
PLACES = _words("kitchen garden garage attic cellar hall library office barn studio")
PETS = _words("Milo Luna Rocky Bella Coco Daisy Oscar Ruby Simba Nala Toby Willow Pepper Ginger")
NUMBERS = tuple(str(number) for number in range(2, 100))
NUMBER_WORDS = _words("zero one two three four five six seven eight nine")

ONSETS = _words("B D F G K M P R T V Z Br Dr Kl St Tr")
ENDINGS = _words("ster nik vald mond rix quist zel")
"""Of family names that nobody has."""

FUNCTION_WORDS = frozenset(
    _words("""
a an the of in on at to for from by with as and or is are was were be been do does did has have had will would can
could should may might what which who whom whose where when why how that this these those there it its you your i my
me we our they their he she his her if tell name give please
""")
)
"""They do not tell one question from another."""
