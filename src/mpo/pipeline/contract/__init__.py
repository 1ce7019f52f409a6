"""The story of `mpo contract`: do two models decide alike along the boundary?"""
