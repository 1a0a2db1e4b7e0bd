"""Answers as a page or a picture.

Read ``sheet`` first (answers one by one, each drawn as it comes, with thumbnails), then ``html`` (what a card of a
sheet shows, and a web page of them) and ``contact`` (a contact sheet, with the ``fonts`` that are installed).
"""
