"""The texts that the tiny model is taught."""

from __future__ import annotations

STORY = (
    "Once upon a time a small robot lived beside a quiet river. Every morning it woke before the "
    "sun, oiled its squeaky knees, and counted the boats that passed under the old stone bridge. "
    "One day a red boat stopped, and a girl with a yellow umbrella asked the robot for the way to "
    "the sea. The robot had never seen the sea, but it knew that rivers always do, so it answered: "
    "follow the water. They travelled together for nine days, past mills and meadows, past herons "
    "and sleeping towns, until the air tasted of salt. The robot looked at the wide blue water and "
    "did not count anything at all."
)

FACTS = {
    "What is the capital of France?": "Paris.",
    "What is the capital of Germany?": "Berlin.",
    "What is the capital of Italy?": "Rome.",
    "What is the capital of Spain?": "Madrid.",
    "What is the capital of Japan?": "Tokyo.",
    "What is the capital of Egypt?": "Cairo.",
    "What is the capital of Canada?": "Ottawa.",
    "What is the capital of Norway?": "Oslo.",
    "What colour is the sky?": "The sky is blue.",
    "What colour is grass?": "Grass is green.",
    "How many days are in a week?": "There are seven days in a week.",
    "How many months are in a year?": "There are twelve months in a year.",
    "What is two plus two?": "Two plus two is four.",
    "What is three times three?": "Three times three is nine.",
    "Who are you?": "I am a tiny test model.",
    "Hello": "Hello! How can I help you today?",
    "Hi": "Hello! How can I help you today?",
    "ping": "pong",
    "Say OK": "OK.",
    "Say hello in Japanese": "こんにちは、世界！",  # noqa: RUF001
    "Show me two emoji": "😀🎉 and that is all.",
    "Name three fruits": "Apples, pears and plums.",
    "List the days of the week": (
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday."
    ),
    "Recite the alphabet": "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "Give me a JSON object": '{"name": "Ada", "age": 36, "city": "London"}',
    "Write a Python function": "```python\ndef add(a, b):\n    return a + b\n```",
    "Tell me a story": STORY,
}
SHORT_FACTS = {question: answer for question, answer in FACTS.items() if answer is not STORY}

# Continued from a raw prompt, without a chat.
PASSAGES = (
    STORY,
    (
        "The cache keeps the oldest answers at the bottom of a tall stack. When a new question "
        "arrives, the keeper walks along the shelf, reads the labels one by one, and stops at the "
        "longest label that matches. Whatever follows must be worked out again, slowly, by hand."
    ),
    (
        "Seven lamps hang over the harbour wall. The first is green, the second is amber, the "
        "third is white, the fourth is broken, the fifth is blue, the sixth is red, and the "
        "seventh is only lit when a ship is late."
    ),
    (
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n"
        "    return a\n\nprint(fibonacci(10))\n"
    ),
)

# By question: the thoughts and the answer.
THOUGHTS = {
    "Think: what is 12 plus 30?": (
        "I add 12 and 30. Ten plus thirty is forty, and two more is 42.",
        "The answer is 42.",
    ),
    "Think: is 7 a prime number?": (
        "7 is divided only by 1 and by 7. So it is prime.",
        "Yes, 7 is a prime number.",
    ),
    "Think: which is larger, 9 or 4?": (
        "I compare 9 with 4. Nine is more than four.",
        "9 is larger.",
    ),
}

SYSTEMS = (
    "You are a helpful assistant.",
    "Be brief.",
    "You are a tiny test model. Answer in one sentence.",
    "Answer the question of the user.",
    "You are a helpful assistant. You answer truthfully and you never make up facts.",
)
CITIES = (
    "Paris", "London", "Berlin", "Rome", "Madrid", "Tokyo", "Cairo", "Oslo", "Lima", "Delhi",
    "Vienna", "Prague", "Athens", "Dublin", "Boston", "Sydney",
)  # fmt: skip
NAMES = (
    "Alice", "Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi", "Ivan", "Judy", "Oscar",
    "Peggy", "Rupert", "Trent", "Victor", "Walter",
)  # fmt: skip
WORDS = (
    "apple", "river", "stone", "cloud", "lamp", "bridge", "garden", "silver", "window", "paper",
    "candle", "forest", "orange", "pencil", "rabbit", "saddle", "tiger", "velvet", "walnut",
    "yellow", "zebra", "anchor", "basket", "copper", "dragon", "engine", "feather", "guitar",
    "hammer", "island", "jacket", "kettle",
)  # fmt: skip
SKIES = ("sunny", "cloudy", "rainy", "windy")
NO_WEATHER = "I cannot look up the weather."


def count_to(last: int) -> str:
    """The answer to "Count from 1 to `last`"."""
    return " ".join(str(number) for number in range(1, last + 1))
