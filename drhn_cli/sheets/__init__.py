"""Answers as a page or a picture.

Read ``sheet`` first (answers one by one, and what is drawn of each), then ``card`` (what stands on a sheet, and
thumbnails), ``html`` (a web page) and ``contact`` (a contact sheet).
"""
