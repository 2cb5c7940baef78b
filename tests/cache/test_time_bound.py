"""Which questions have another answer at another time: these are not kept."""

from __future__ import annotations

import timeit
from functools import partial

import pytest

from cache.time_bound import is_time_bound


def lines(block: str) -> list[str]:
    return block.strip().replace("\n", "|").split("|")


ASKS_FOR_THE_MOMENT = """
What is the time now?|what's the time|time now in Tokyo|Tell me today's date.|What day is it?|Which year is it now?
How old is the queen?|How old am I if I was born in 1990?|Is Joe Biden still president?|Is Pelé still alive?
Who won the game?|Who won the last election?|who won the world cup|When is the next train to Berlin?
How long until Christmas?|How many days since 1 May?|What is going on in Ukraine?|what's happening in London
How is the traffic?|Is it raining in Oslo?|Will it snow?|What's trending on Twitter?|Should I buy bitcoin now?
what now in Ukraine|Is it on now?|What's on TV now?|Where is the ISS now?|What is the best stock portfolio from now on?
What are the exchange rates?|How's the exchange rate?|Tell me the EUR exchange rate.|What exchange rate will I get?
What is the correct exchange rate?|what is the exchange rate applied to card payments
Why is the exchange rate bad today?|Get me the exchange rate from USD to EUR|The latest iPhone, what does it cost?
Can I see the northern lights tonight?
I heard about the election yesterday. Why did he win?|I fly to Paris tomorrow. Will it rain?
My flight is today. Is it late?
Why did my stocks fall yesterday?|Should I sell my shares now?|What do I do today?|What should we do now that he won?
"""
OF_ONES_OWN_BUT_FOR_THE_MOMENT = """
my transactions today|my card payments this month|two transactions I made yesterday|What did I spend this week?
list of my transactions this week|How much have I spent on my card so far this month?|Show me my orders from yesterday.
What is on my calendar today?|I have a card. What day is it today?|I used my card yesterday. What is the date?
I topped up my card today. What is the exchange rate?|I paid by card yesterday. Is the shop open now?
Can I withdraw cash at my branch today?|Can I deposit a cheque tomorrow, is it a bank holiday?
I need a list of my card payments today.
I want to see my orders from yesterday.|I need my account statement from last week.
Tell me what I bought with my card yesterday.
Which payments did I make last month?|What should I order today?|What can I do with my card today?
What are today's card offers?|Is there a top up bonus today?|Has my refund arrived today?
Did my payment go through yesterday?|Are there problems with card payments right now?
Are transfers down today?|Which cards are currently on offer?
I ordered pizza yesterday. What day was that?|My order arrives tomorrow. Which day is that?
Can I still order today for tomorrow?
Can I transfer players now?|What's my account balance right now?|Check my payment from last Saturday
Tell me about my card today
I pay by card tomorrow. Is it a working day?|I ordered it yesterday. Will it arrive by Friday?
I paid my invoice today, is it overdue?
I ordered it yesterday. Do I get it before Christmas?|My subscription ends next month. How many days are left?
Today my card stopped working. Is there a strike?|My card expires next month. Is it still valid?
Summarize my orders of this week
Wie ist mein Kontostand heute?|Welche Zahlungen hatte ich gestern?|Zeig mir meine Zahlungen von gestern
Ist die Bank heute offen? Ich brauche meine Karte.|Kommt meine Bestellung morgen?
Quels paiements ai-je faits hier soir ?|Montre mes commandes de cette semaine
La banque est-elle ouverte aujourd'hui ? J'ai perdu ma carte.
¿Cuánto gasté ayer con mi tarjeta?|Muestra mis pedidos de esta semana|¿Está abierto el banco hoy?
"""
SPEAKS_OF_NO_MOMENT = """
How do I change my current PIN?|I want to replace my current PIN.|I need to update my current address.
My current card expires. How do I order a new one?|How do I order a new card? The current one is about to expire.
My card still hasn't arrived, now what?|My card is lost! What do I do now?|From now on, answer in French.
How long until my card arrives?|How many days until my transfer arrives?
Does it snow in California?|How do I get more traffic to my blog?|Who won the World Cup in 1998?
"""


@pytest.mark.parametrize("text", lines(ASKS_FOR_THE_MOMENT))
def test_what_has_another_answer_at_another_time_is_bound(text: str) -> None:
    assert is_time_bound(text)


@pytest.mark.parametrize("text", lines(OF_ONES_OWN_BUT_FOR_THE_MOMENT))
def test_what_asks_for_a_moment_of_ones_own_things_is_bound(text: str) -> None:
    assert is_time_bound(text)


@pytest.mark.parametrize("text", lines(SPEAKS_OF_NO_MOMENT))
def test_words_of_time_that_speak_of_no_moment_bind_nothing(text: str) -> None:
    assert not is_time_bound(text)


def test_a_question_costs_microseconds_whatever_it_says() -> None:
    told = "My card was declined yesterday, and again today. Why is it not working now? I need it this week. "
    for text, most_s in ((told, 0.002), (told * 6, 0.004), ("the last next this " * 10_000, 0.02)):
        assert min(timeit.repeat(partial(is_time_bound, text), number=1, repeat=5)) < most_s
