"""Facts, short writing tasks and small talk for conversations: training and held out.

Plain data. No topic, word or name is on both sides.
"""

from typing import NamedTuple


class Fact(NamedTuple):
    """A question with a short answer, and a sentence that adds to it."""

    topic: str  # completes "about ..."
    question: str
    answer: str
    detail: str


FACTS = (
    Fact(
        "rainbows",
        "How does a rainbow form?",
        "A rainbow forms when sunlight enters drops of rain, bends, and splits into "
        "its colors.",
        "Red is always on the outside of the arc and violet on the inside.",
    ),
    Fact(
        "the tides",
        "Why does the sea rise and fall?",
        "The tides come from the pull of the Moon on the water of the oceans.",
        "The Sun pulls as well, so tides are highest at new and full moon.",
    ),
    Fact(
        "bread",
        "Why does bread rise?",
        "Yeast eats the sugar in the dough and gives off gas, which makes the dough "
        "rise.",
        "The heat of the oven then sets the bubbles in place.",
    ),
    Fact(
        "bees",
        "Why are bees important?",
        "Bees carry pollen from flower to flower, and many plants need that to bear "
        "fruit.",
        "Apples, almonds and pumpkins all depend on them.",
    ),
    Fact(
        "the capital of France",
        "What is the capital of France?",
        "The capital of France is Paris.",
        "It lies on the river Seine and has about two million people.",
    ),
    Fact(
        "the capital of Japan",
        "Which city is the capital of Japan?",
        "The capital of Japan is Tokyo.",
        "It is one of the largest cities in the world.",
    ),
    Fact(
        "the capital of Egypt",
        "What is Egypt's capital?",
        "The capital of Egypt is Cairo.",
        "It stands on the Nile, not far from the pyramids.",
    ),
    Fact(
        "boiling water",
        "At what temperature does water boil?",
        "At sea level, water boils at 100 degrees Celsius.",
        "High in the mountains it boils at a lower temperature.",
    ),
    Fact(
        "the heart",
        "What does the heart do?",
        "The heart pumps blood through the body, which brings oxygen to every organ.",
        "It beats about a hundred thousand times a day.",
    ),
    Fact(
        "sleep",
        "Why do we need sleep?",
        "Sleep lets the body repair itself and helps the brain keep what it learned.",
        "Most adults need seven to nine hours a night.",
    ),
    Fact(
        "the planets",
        "How many planets does the Sun have?",
        "Eight planets go around the Sun.",
        "Jupiter is the largest of them and Mercury the smallest.",
    ),
    Fact(
        "the Moon",
        "How long does the Moon take to go around the Earth?",
        "The Moon goes around the Earth in a little more than 27 days.",
        "It always shows us the same side.",
    ),
    Fact(
        "volcanoes",
        "What is a volcano?",
        "A volcano is an opening in the ground through which hot melted rock comes up.",
        "When the rock cools, it builds a mountain around the opening.",
    ),
    Fact(
        "photosynthesis",
        "How do plants make their food?",
        "Plants use sunlight to turn water and carbon dioxide into sugar and oxygen.",
        "The green color of leaves comes from the substance that catches the light.",
    ),
    Fact(
        "magnets",
        "What does a magnet attract?",
        "A magnet attracts iron, nickel and cobalt, and things made of them.",
        "Two magnets attract each other with unlike ends and push away with like ends.",
    ),
    Fact(
        "gravity",
        "What is gravity?",
        "Gravity is the force that pulls things toward each other; it keeps us on the "
        "ground.",
        "The more mass a thing has, the stronger its pull.",
    ),
    Fact(
        "printing",
        "Who invented the printing press?",
        "Johannes Gutenberg built the first European printing press with movable type "
        "around 1450.",
        "Books became cheaper, and many more people learned to read.",
    ),
    Fact(
        "the telephone",
        "Who invented the telephone?",
        "Alexander Graham Bell received the patent for the telephone in 1876.",
        "Several others were working on similar machines at the time.",
    ),
    Fact(
        "Shakespeare",
        "Who was Shakespeare?",
        "William Shakespeare was an English writer of plays and poems who lived from "
        "1564 to 1616.",
        "Hamlet and Romeo and Juliet are among his best known plays.",
    ),
    Fact(
        "chess",
        "How do you win a game of chess?",
        "You win by checkmate: the other king is attacked and cannot escape.",
        "A game can also end in a draw.",
    ),
    Fact(
        "saving money",
        "How can I save money?",
        "Write down what you spend, then put a fixed amount aside at the start of "
        "each month.",
        "Small things that you buy every day add up, so look at those first.",
    ),
    Fact(
        "learning a language",
        "What is a good way to learn a language?",
        "Practice a little every day, and speak as early as you can.",
        "Songs, films and simple books help you to hear how it sounds.",
    ),
    Fact(
        "a headache",
        "What can I do against a headache?",
        "Drink a glass of water, rest in a dark room, and look away from screens.",
        "If it is strong or comes back often, see a doctor.",
    ),
    Fact(
        "houseplants",
        "How often should I water a houseplant?",
        "Water it when the top of the soil feels dry, which is about once a week for "
        "most plants.",
        "Too much water harms more plants than too little.",
    ),
    Fact(
        "computers",
        "What does a computer's memory do?",
        "Memory holds the programs and data that the computer is using at the moment.",
        "It is empty when the power goes off, so files are kept on a disk.",
    ),
    Fact(
        "passwords",
        "What makes a good password?",
        "A good password is long, hard to guess, and used for one account only.",
        "A password manager can remember them for you.",
    ),
    Fact(
        "the internet",
        "What is the internet?",
        "The internet is a network that connects computers all over the world.",
        "Messages are cut into small packets that find their own way.",
    ),
    Fact(
        "Python",
        "What is Python used for?",
        "Python is a programming language used for websites, science and everyday "
        "scripts.",
        "It is popular with beginners because it is easy to read.",
    ),
    Fact(
        "loops",
        "What is a loop in programming?",
        "A loop repeats the same steps until a condition is met.",
        "For example, it can go through every name in a list.",
    ),
    Fact(
        "tea",
        "How do I make a cup of tea?",
        "Boil water, pour it over the tea, wait three to five minutes, and take the "
        "leaves out.",
        "Green tea tastes better with water that is not quite boiling.",
    ),
    Fact(
        "omelettes",
        "How do I cook an omelette?",
        "Beat two eggs with a little salt, pour them into a hot buttered pan, and "
        "fold when they are nearly set.",
        "Cheese, herbs or mushrooms go in before you fold it.",
    ),
    Fact(
        "rice",
        "How much water does rice need?",
        "Use about two cups of water for one cup of white rice.",
        "Let it rest for some minutes with the lid on before you serve it.",
    ),
    Fact(
        "whales",
        "Is a whale a fish?",
        "No, a whale is a mammal: it breathes air and feeds its young with milk.",
        "The blue whale is the largest animal that has ever lived.",
    ),
    Fact(
        "cats",
        "Why do cats purr?",
        "Cats usually purr when they feel safe and content.",
        "Some also purr to calm themselves when they are hurt.",
    ),
    Fact(
        "penguins",
        "Where do penguins live?",
        "Penguins live in the southern half of the world, many of them in Antarctica.",
        "They cannot fly, but they swim very well.",
    ),
    Fact(
        "spiders",
        "How many legs does a spider have?",
        "A spider has eight legs.",
        "That is one way to tell it from an insect, which has six.",
    ),
    Fact(
        "glass",
        "What is glass made of?",
        "Glass is made of sand that is melted at a very high temperature.",
        "Soda and lime are added so that it melts more easily.",
    ),
    Fact(
        "paper",
        "How is paper made?",
        "Wood is ground into pulp, mixed with water, spread out thin, and dried.",
        "Old paper can be made into new paper several times.",
    ),
    Fact(
        "the seasons",
        "Why do we have seasons?",
        "The Earth's axis is tilted, so each half of the world gets more sunlight for "
        "part of the year.",
        "When it is summer in the north, it is winter in the south.",
    ),
    Fact(
        "clouds",
        "What are clouds made of?",
        "Clouds are made of tiny drops of water or crystals of ice.",
        "They form when moist air rises and cools.",
    ),
    Fact(
        "fractions",
        "What is a fraction?",
        "A fraction is a part of a whole, written with one number over another.",
        "In three quarters, the whole is cut into four parts and you take three.",
    ),
    Fact(
        "prime numbers",
        "What is a prime number?",
        "A prime number is greater than one and can be divided only by itself and one.",
        "The first ones are 2, 3, 5, 7 and 11.",
    ),
    Fact(
        "triangles",
        "What do the angles of a triangle add up to?",
        "The angles of a triangle add up to 180 degrees.",
        "In a triangle with three equal sides, each of them is 60 degrees.",
    ),
    Fact(
        "nouns",
        "What is a noun?",
        "A noun is a word for a person, a place, a thing or an idea.",
        "House, teacher and freedom are nouns.",
    ),
    Fact(
        "haiku",
        "What is a haiku?",
        "A haiku is a short Japanese poem of three lines.",
        "The lines have five, seven and five syllables.",
    ),
    Fact(
        "the piano",
        "How many keys does a piano have?",
        "A modern piano has 88 keys.",
        "Of those, 52 are white and 36 are black.",
    ),
    Fact(
        "football",
        "How many players does a football team have on the field?",
        "A football team has eleven players on the field, one of whom keeps the goal.",
        "A match lasts ninety minutes.",
    ),
    Fact(
        "running",
        "How do I start running?",
        "Start slowly: run for one minute, walk for two, and repeat that ten times.",
        "Do it three times a week, and run a little longer each week.",
    ),
    Fact(
        "job interviews",
        "How should I prepare for a job interview?",
        "Read about the company, think of examples of your work, and prepare two "
        "questions of your own.",
        "Go to bed early and plan to arrive ten minutes before the time.",
    ),
    Fact(
        "a letter of thanks",
        "How do I begin a letter of thanks?",
        "Begin with the name of the person, and say at once what you are thankful for.",
        "Add one sentence about what it meant to you.",
    ),
    Fact(
        "the Great Wall",
        "Why was the Great Wall of China built?",
        "The Great Wall was built to protect China against attacks from the north.",
        "Most of what stands today was built about five hundred years ago.",
    ),
    Fact(
        "the Amazon",
        "Where is the Amazon rainforest?",
        "The Amazon rainforest is in South America, and most of it is in Brazil.",
        "It is home to more kinds of plants and animals than any other place.",
    ),
    Fact(
        "deserts",
        "Which is the largest hot desert?",
        "The Sahara in northern Africa is the largest hot desert.",
        "It is almost as large as the United States.",
    ),
    Fact(
        "batteries",
        "How does a battery work?",
        "In a battery, a chemical reaction pushes electric charge through a wire.",
        "When the chemicals are used up, the battery is empty.",
    ),
    Fact(
        "stress",
        "How can I feel less stressed?",
        "Take slow breaths, go for a walk, and do one thing at a time.",
        "Talking to a friend often helps as well.",
    ),
    Fact(
        "reading",
        "How can I read more books?",
        "Keep a book near your bed, and read ten pages every evening.",
        "Put a book away if you do not enjoy it, and take another.",
    ),
)

HELD_OUT_FACTS = (
    Fact(
        "lightning",
        "Why do we see lightning before we hear thunder?",
        "Light travels much faster than sound.",
        "Count the seconds between them to tell how far away the storm is.",
    ),
    Fact(
        "coffee",
        "How do I make good coffee at home?",
        "Grind fresh beans and use water just below boiling.",
        "Use about two spoons for each cup.",
    ),
    Fact(
        "the capital of Italy",
        "What is the capital of Italy?",
        "The capital of Italy is Rome.",
        "It is more than two thousand years old.",
    ),
    Fact(
        "dinosaurs",
        "What happened to the dinosaurs?",
        "Most dinosaurs died out about 66 million years ago.",
        "Birds are their living relatives.",
    ),
    Fact(
        "the ocean",
        "Why is the ocean salty?",
        "Rivers carry salt from rocks into the sea.",
        "The water evaporates and the salt stays behind.",
    ),
    Fact(
        "earthquakes",
        "What causes an earthquake?",
        "Large plates of rock under the ground move suddenly.",
        "Most happen along the edges of those plates.",
    ),
    Fact(
        "vitamins",
        "Why do we need vitamins?",
        "The body needs small amounts of vitamins to stay healthy.",
        "Fruit and vegetables have many of them.",
    ),
    Fact(
        "Mozart",
        "Who was Mozart?",
        "Mozart was a composer who was born in Salzburg in 1756.",
        "He wrote more than six hundred works.",
    ),
    Fact(
        "elephants",
        "How long do elephants live?",
        "Elephants live for about sixty years.",
        "They live in families that are led by an old female.",
    ),
    Fact(
        "a bicycle",
        "How do I fix a flat tire on a bicycle?",
        "Take the wheel off, patch the tube, and pump it up again.",
        "Look for the thorn before you put the tube back.",
    ),
    Fact(
        "democracy",
        "What is a democracy?",
        "In a democracy the people choose who governs them.",
        "The word comes from Greek.",
    ),
    Fact(
        "recycling",
        "Why should we recycle?",
        "Recycling saves raw material and energy.",
        "Glass and metal can be used again and again.",
    ),
    Fact(
        "pasta",
        "How long should I cook pasta?",
        "Most pasta needs eight to twelve minutes.",
        "Taste it before you pour the water off.",
    ),
    Fact(
        "shyness",
        "How can I make new friends?",
        "Join a group that does something you like.",
        "Ask people about themselves and listen.",
    ),
    Fact(
        "verbs",
        "What is a verb?",
        "A verb is a word for an action or a state.",
        "Run, think and be are verbs.",
    ),
    Fact(
        "the Sun",
        "How hot is the Sun?",
        "Its surface has about 5,500 degrees Celsius.",
        "The core is far hotter.",
    ),
    Fact(
        "sharks",
        "Do sharks have bones?",
        "No, their skeleton is made of cartilage.",
        "Cartilage is what gives our ears their shape.",
    ),
    Fact(
        "a budget",
        "How do I plan a budget for a trip?",
        "List the costs of travel, rooms and food, and add a tenth.",
        "Book early what gets dearer.",
    ),
    Fact(
        "databases",
        "What is a database?",
        "A database keeps information in an ordered way so that it can be searched.",
        "Shops and banks use them every day.",
    ),
    Fact(
        "dreams",
        "Why do people dream?",
        "Nobody knows for certain why we dream.",
        "It may help the brain to sort what happened.",
    ),
)

INSTRUCTIONS = (
    "Answer briefly.",
    "You are a friendly assistant.",
    "Be polite and clear.",
    "Use simple words.",
    "You help students with their homework.",
    "You are the assistant of a public library.",
    "Keep every answer under three sentences.",
    "You are a patient teacher.",
    "Write plain English without lists.",
    "The user is a child. Be kind.",
    "You answer the mail of a small shop.",
    "Do not use any jargon.",
)
HELD_OUT_INSTRUCTIONS = (
    "You are a helpful guide in a museum.",
    "Give short and honest answers.",
    "You work at the front desk of a hotel.",
    "The user is in a hurry.",
    "Explain things to a beginner.",
)

PEOPLE = "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mary Nick Rosa"
HELD_OUT_PEOPLE = "Olga Peter Quentin Ruth Simon Tara Ursula Victor"
ANIMALS = "fox wolf rabbit bear mouse horse duck cat goat hedgehog"
HELD_OUT_ANIMALS = "badger crow lizard squirrel"
PLACES = ("forest", "old town", "mountains", "harbor", "village", "garden", "castle")
HELD_OUT_PLACES = ("desert", "lighthouse", "market")
LOST = ("lantern", "red hat", "map", "silver key", "letter", "blue kite", "bell")
HELD_OUT_LOST = ("compass", "wooden flute", "green scarf")

LISTS = {
    "fruits": "apples pears plums cherries oranges grapes peaches",
    "colors": "red blue green yellow purple orange white",
    "countries in Europe": "Spain Poland Norway Greece Austria Portugal Ireland",
    "tools": "a hammer, a saw, a drill, a wrench, a screwdriver, a chisel",
    "trees": "oak birch pine maple beech willow",
    "sports": "tennis swimming rowing hockey cycling golf",
    "instruments": "the violin, the flute, the drum, the guitar, the harp, the horn",
}
HELD_OUT_LISTS = {
    "vegetables": "carrots onions peas beans leeks",
    "birds": "robins eagles swans sparrows gulls",
    "pieces of furniture": "a table, a chair, a bed, a shelf, a desk",
    "languages": "Dutch Hindi Arabic Korean Swedish",
}

KINDS_OF_THINGS = {
    "animal": "lion tiger camel dolphin turtle frog ant wasp zebra monkey beaver otter",
    "plant": "fern cactus moss ivy palm reed thistle daisy lily nettle",
    "tool": "hammer saw rake shovel needle chisel spade axe ruler wrench",
    "vehicle": "truck tram ferry canoe tractor rocket scooter sled wagon van",
    "building": "church barn school hotel tower mill temple factory museum hut",
    "food": "sausage biscuit noodle pancake sandwich cheese pie omelette",
    "job": "baker pilot nurse judge tailor farmer painter sailor lawyer",
    "drink": "juice lemonade milkshake cocoa cider tea",
    "musical instrument": "violin drum trumpet harp organ cello banjo",
    "piece of clothing": "coat glove sock skirt vest boot cap shirt",
}
HELD_OUT_KINDS = {
    "animal": "parrot kangaroo seal donkey lobster",
    "machine": "printer mixer crane pump",
    "fruit": "mango lemon fig apricot",
    "container": "jar box barrel basket",
}
OPPOSITES = (
    "hot/cold big/small old/new fast/slow high/low light/dark rich/poor wet/dry "
    "hard/soft early/late full/empty open/closed near/far thick/thin strong/weak "
    "clean/dirty loud/quiet sweet/sour up/down left/right win/lose buy/sell"
)
HELD_OUT_OPPOSITES = "long/short happy/sad deep/shallow begin/end young/aged love/hate"

REVIEWS = (
    ("The soup was cold and the waiter was rude.", "negative"),
    ("I loved every page of this book.", "positive"),
    ("The room was clean and the view was wonderful.", "positive"),
    ("It broke after two days.", "negative"),
    ("A slow film with a silly ending.", "negative"),
    ("The staff helped us with everything.", "positive"),
    ("Great sound, and the battery lasts for days.", "positive"),
    ("I waited for an hour and nobody came.", "negative"),
)
HELD_OUT_REVIEWS = (
    ("The concert was a joy from the first note to the last.", "positive"),
    ("My coat arrived with a hole in the sleeve.", "negative"),
    ("The hike was easy and beautiful.", "positive"),
)

SMALL_TALK = (
    ("Hello!", "Hello! How can I help you today?"),
    ("Hi, how are you?", "I am fine, thank you. What can I do for you?"),
    ("Good morning.", "Good morning! What would you like to talk about?"),
    (
        "Who are you?",
        "I am a language model. I can answer questions and help you write.",
    ),
    ("What can you do?", "I can explain things, help with texts, and use your tools."),
    ("Thank you very much.", "You are welcome! Let me know if you need anything else."),
    ("I am bored.", "Would you like a story, a riddle, or an idea for a walk?"),
    ("I had a hard day.", "I am sorry to hear that. Do you want to tell me about it?"),
    ("Goodbye!", "Goodbye! I hope you have a lovely day."),
)
HELD_OUT_SMALL_TALK = (
    ("Good evening, nice to meet you.", "Good evening! Nice to meet you, too."),
    ("Are you a robot?", "I am a program that works with language."),
    ("I passed my exam today!", "Congratulations! You must be very happy."),
    ("See you tomorrow.", "See you tomorrow!"),
)
