"""Filters for what goes into a model and what comes out of it, and the policy that says what follows from their finds.

policy          what is done with a text, and why            stream       the same for a reply, sentence by sentence
personal        e-mail, phones, identity numbers, cards      secrets      keys, tokens, passwords
names           names and addresses, where announced         words        word lists
injection       text that speaks to the model                self_harm    someone who needs help, and the answer
moderator       a trained classifier of eight categories     normalise    one spelling for all disguises
"""
