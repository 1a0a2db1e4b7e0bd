"""Answers as a page or a picture.

Read ``sheet`` first (answers one by one, each drawn as it comes), then ``card`` (what a sheet shows, and
thumbnails), ``html`` (a web page) and ``contact`` (a contact sheet).
"""
